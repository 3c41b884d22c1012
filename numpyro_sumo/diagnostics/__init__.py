"""Diagnostics of trained guides: KL, log-evidence, Pareto k-hat and ArviZ summaries."""

from .arviz import pareto_k, pareto_smoothed, summarise, to_arviz

__all__ = ["pareto_k", "pareto_smoothed", "summarise", "to_arviz"]
