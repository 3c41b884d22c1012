"""Estimates of log p(x) as functions of log-weights: pure functions of arrays."""

from .bounds import importance_weighted_bound
from .multilevel import multilevel
from .roulette import russian_roulette

__all__ = ["importance_weighted_bound", "multilevel", "russian_roulette"]
