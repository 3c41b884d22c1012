"""Judgement of samplers: what is put beside the numbers of NUTS, under ArviZ."""

from .arviz_data import pareto_k, pareto_smoothed, summarise, to_arviz
from .distances import kolmogorov_smirnov, quantiles

__all__ = [
    "kolmogorov_smirnov",
    "pareto_k",
    "pareto_smoothed",
    "quantiles",
    "summarise",
    "to_arviz",
]
