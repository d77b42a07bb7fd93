"""What is measured: items, the texts to score, and the formulas that give metrics."""
