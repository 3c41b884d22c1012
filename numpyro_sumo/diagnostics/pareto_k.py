"""The Pareto k-hat of importance weights, and weights with a smoothed tail, by ArviZ."""

import math
from typing import Any
import warnings

import numpy as np
from scipy.special import logsumexp

from .arviz import IS_ARVIZ_1

#: Fewer weights than this in the tail have no k-hat.
_SMALLEST_TAIL = 5


def tail_size(num_draws: int) -> int:
    """The number of weights in the tail that a Pareto distribution is fitted to."""
    return math.ceil(min(0.2 * num_draws, 3.0 * num_draws**0.5))


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """The Pareto k-hat of importance weights, shape ``batch``; see :func:`pareto_smoothed`."""
    return pareto_smoothed(log_weights)[1]


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooths the upper tail of importance weights by a fitted Pareto distribution.

    :param log_weights: shape ``(*batch, draws)``.
    :return: log-weights of the same shape, normalised over draws, and k-hats of shape ``batch``. If
        the largest weights are equal, k-hat is −∞; with fewer than 25 draws it is ∞; in both cases
        nothing is smoothed.

    **Reference:** Vehtari et al. 2024, *Pareto smoothed importance sampling*, algorithm 1.
    """
    log_weights = np.asarray(log_weights, np.float64)
    rows = log_weights.reshape(-1, log_weights.shape[-1]).copy()
    k_hat = np.full(len(rows), -np.inf)
    in_tail = tail_size(rows.shape[1])
    tails = np.sort(rows, axis=-1)[:, -in_tail:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller warns of a large k-hat
        lowest = rows.min(axis=1) if in_tail < _SMALLEST_TAIL else tails[:, 0]
        spread = tails[:, -1] - lowest > 1e-4
        if in_tail < _SMALLEST_TAIL:
            k_hat[spread] = np.inf
        elif spread.any():
            rows[spread], k_hat[spread] = _smooth_tail(rows[spread])
        rows -= logsumexp(rows, axis=-1, keepdims=True)
    return rows.reshape(log_weights.shape), k_hat.reshape(log_weights.shape[:-1])


def _smooth_tail(log_weights: np.ndarray) -> Any:
    if not IS_ARVIZ_1:
        import arviz as az

        return az.psislw(log_weights)
    from arviz_stats.base import array_stats

    # ArviZ 1.x takes log-likelihoods: minus the log-weights.
    return array_stats.psislw(-log_weights)
