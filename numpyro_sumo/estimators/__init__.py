"""Estimates of log p(x) as functions of log-weights: pure mathematics, arrays in, arrays out."""

from .bounds import importance_weighted_bound
from .roulette import russian_roulette

__all__ = ["importance_weighted_bound", "russian_roulette"]
