"""A model's scores on a benchmark, and comparisons of results."""
