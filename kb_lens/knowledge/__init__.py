"""Does the model know? Its answers to the questions, before any neuron is looked for."""
