"""Does the model know? What it answers to the questions, before any neuron is looked for."""
