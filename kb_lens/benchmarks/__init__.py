"""Benchmarks: their items, the texts to score, and the formulas of their metrics."""
