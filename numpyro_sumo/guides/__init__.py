"""Hierarchical guides, and what their draws are weighted with."""
