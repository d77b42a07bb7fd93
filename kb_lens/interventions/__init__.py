"""What can be done to a model: scaling neurons, folding them in, and the baselines."""
