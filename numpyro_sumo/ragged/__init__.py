"""A random number of log-weights inside ``jit``, at the cost of what was drawn."""

from .evaluate import evaluate_fixed, evaluate_ragged
from .levels import Levels, LevelSums
from .particle import GUIDE, MODEL, PATH, Particle, stop_gradient_where_zero
from .queue import Layout, Queue
from .rows import Rows

__all__ = [
    "GUIDE",
    "MODEL",
    "PATH",
    "Layout",
    "LevelSums",
    "Levels",
    "Particle",
    "Queue",
    "Rows",
    "evaluate_fixed",
    "evaluate_ragged",
    "stop_gradient_where_zero",
]
