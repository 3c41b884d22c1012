"""The Pareto k-hat of importance weights and other numbers, and weights with a smoothed tail."""

import math
from typing import Any
import warnings

import numpy as np
from scipy.special import logsumexp

from .arviz import IS_ARVIZ_1

#: Fewer weights than this in the tail have no k-hat.
_SMALLEST_TAIL = 5

#: Numbers are equal if they differ by so small a share.
_EQUAL = 1e-4


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
        spread = tails[:, -1] - lowest > _EQUAL
        if in_tail < _SMALLEST_TAIL:
            k_hat[spread] = np.inf
        elif spread.any():
            rows[spread], k_hat[spread] = _smooth_tail(rows[spread])
        rows -= logsumexp(rows, axis=-1, keepdims=True)
    return rows.reshape(log_weights.shape), k_hat.reshape(log_weights.shape[:-1])


def upper_tail_k(values: np.ndarray) -> np.ndarray:
    """The Pareto k-hat of the largest of numbers: :func:`pareto_k` of their logarithms.

    For hundreds of rows, each of which takes ArviZ's fit, on all versions, a few milliseconds.

    :param values: shape ``(*batch, draws)``.
    :return: shape ``batch``; −∞ where the largest are equal, ∞ where fewer than five are larger
        than the rest.

    **References:** Zhang and Stephens 2009, *A new and efficient estimation method for the
    generalized Pareto distribution*; Vehtari et al. 2024, *Pareto smoothed importance sampling*,
    for the prior of k.
    """
    values = np.asarray(values, np.float64)
    rows = values.reshape(-1, values.shape[-1])
    in_tail = tail_size(rows.shape[1])
    first = max(rows.shape[1] - in_tail - 1, 0)
    largest = np.sort(np.partition(rows, first, axis=-1)[:, first:], axis=-1)
    k_hats = [_pareto_index(row[1:] - row[0], scale=np.abs(row).max()) for row in largest]
    return np.reshape(k_hats, values.shape[:-1])


def _pareto_index(excess: np.ndarray, scale: float) -> float:
    """The k-hat of numbers in ascending order that exceed a threshold by so much.

    :param scale: of the numbers themselves, beside which differences may be rounding errors.
    """
    if excess.size == 0 or not excess[-1] - excess[0] > _EQUAL * scale:
        return -np.inf if len(excess) else np.inf
    excess = excess[excess > 0.0]
    count = len(excess)
    if count < _SMALLEST_TAIL:
        return np.inf
    points = 30 + int(count**0.5)
    # θ of Zhang and Stephens is k-hat / scale, and has so many candidates.
    candidates = 1.0 - np.sqrt(points / (np.arange(points) + 0.5))
    candidates = candidates / (3.0 * excess[int(count / 4 + 0.5) - 1]) + 1.0 / excess[-1]
    index = np.log(1.0 - candidates[:, None] * excess).mean(axis=1)
    log_likelihood = count * (np.log(-candidates / index) - index - 1.0)
    weights = np.exp(log_likelihood - log_likelihood.max())
    theta = weights @ candidates / weights.sum()
    found = np.log(1.0 - theta * excess).mean()
    # The prior of Vehtari et al., worth ten observations of 0.5.
    return float((count * found + 10 * 0.5) / (count + 10))


def _smooth_tail(log_weights: np.ndarray) -> Any:
    if not IS_ARVIZ_1:
        import arviz as az

        return az.psislw(log_weights)
    from arviz_stats.base import array_stats

    # ArviZ 1.x takes log-likelihoods: minus the log-weights.
    return array_stats.psislw(-log_weights)
