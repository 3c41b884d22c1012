"""Judgement of samplers: what is put beside the numbers of NUTS, under ArviZ."""

from .arviz_data import summarise, to_arviz
from .distances import kolmogorov_smirnov, quantiles

__all__ = ["kolmogorov_smirnov", "quantiles", "summarise", "to_arviz"]
