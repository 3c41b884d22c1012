"""Estimates of log p(x) as functions of log-weights: pure mathematics, arrays in, arrays out."""

from .bounds import importance_weighted_bound
from .multilevel import TRUNCATIONS, multilevel
from .roulette import russian_roulette

__all__ = ["TRUNCATIONS", "importance_weighted_bound", "multilevel", "russian_roulette"]
