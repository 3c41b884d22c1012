"""A random number of log-weights inside ``jit``, at the cost of what was drawn."""

from .evaluation import LevelSums, evaluate_levels, evaluate_log_weights

__all__ = ["LevelSums", "evaluate_levels", "evaluate_log_weights"]
