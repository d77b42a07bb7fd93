"""Models: loading them, their hooks at the neurons, and the prompts for them."""
