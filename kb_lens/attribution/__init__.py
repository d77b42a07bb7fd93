"""Integrated gradients over MLP neurons: the path, the quadrature, the scores."""
