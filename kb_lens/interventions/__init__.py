"""Interventions: scaling neurons, folding the scaling into the weights, and the baselines."""
