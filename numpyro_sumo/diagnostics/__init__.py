"""Judgement of samplers: what is put beside the numbers of NUTS, under ArviZ."""

from benchmarks.common.distances import kolmogorov_smirnov, quantiles

from .arviz import pareto_k, pareto_smoothed, summarise, to_arviz

__all__ = [
    "kolmogorov_smirnov",
    "pareto_k",
    "pareto_smoothed",
    "quantiles",
    "summarise",
    "to_arviz",
]
