"""A random number of log-weights inside ``jit``, at the cost of what was drawn."""

from .evaluation import evaluate_levels, evaluate_log_weights
from .kept import LevelSums
from .particle import MODEL, PATH, Particle, held_unless

__all__ = [
    "MODEL",
    "PATH",
    "LevelSums",
    "Particle",
    "evaluate_levels",
    "evaluate_log_weights",
    "held_unless",
]
