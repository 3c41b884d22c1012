"""Coverage benchmark: how often the intervals of ``standard_errors`` contain the truth."""
