"""How a model gets into memory, where its neurons are hooked, how it is asked."""
