"""Defaults benchmark: guides trained with each option of a loss, on models of known log p(x)."""
