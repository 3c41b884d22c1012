"""A random number of log-weights inside ``jit``, at the cost of what was drawn."""

from .evaluate import evaluate_levels, evaluate_log_weights, evaluate_tails
from .levels import LevelSums
from .particle import MODEL, PATH, Particle, held_unless
from .tails import TailSums

__all__ = [
    "MODEL",
    "PATH",
    "LevelSums",
    "Particle",
    "TailSums",
    "evaluate_levels",
    "evaluate_log_weights",
    "evaluate_tails",
    "held_unless",
]
