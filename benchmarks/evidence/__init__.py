"""Evidence benchmark: bias, variance and cost of each estimator of a known log p(x)."""
