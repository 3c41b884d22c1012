"""How far a trained guide can be trusted: KL bounds, log-evidence, Pareto k-hat, ArviZ summaries."""

from .arviz import pareto_k, pareto_smoothed, summarise, to_arviz

__all__ = ["pareto_k", "pareto_smoothed", "summarise", "to_arviz"]
