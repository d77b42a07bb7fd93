"""A model's scores on a benchmark, and how two results compare."""
