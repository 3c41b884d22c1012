"""Models used by two benchmarks or more, all with a known log p(x)."""
