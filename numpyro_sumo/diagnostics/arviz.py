"""ArviZ data, summaries and Pareto smoothing, under ArviZ 0.23 and 1.x alike."""

import math
from typing import Any
import warnings

import numpy as np
from scipy.special import logsumexp

with warnings.catch_warnings():
    # ArviZ 0.23 warns of 1.x on import.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

_IS_ARVIZ_1 = int(az.__version__.split(".")[0]) >= 1
_SMALLEST_TAIL = 5
_COLUMNS = ["mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"]


def to_arviz(
    posterior: dict[str, np.ndarray], sample_stats: dict[str, np.ndarray] | None = None
) -> Any:
    """Draws of a sampler or of MCMC as ArviZ data: ``InferenceData`` under 0.23, else ``DataTree``.

    :param posterior: arrays of shape ``(chain, draw, ...)`` by variable.
    :param sample_stats: arrays by name, ``diverging`` for instance.
    :raises ValueError: for an array with fewer than two axes.
    """
    posterior = {name: np.asarray(values) for name, values in posterior.items()}
    for name, values in posterior.items():
        if values.ndim < 2:
            raise ValueError(
                f"Expected draws of shape (chain, draw, ...); '{name}' has shape {values.shape}. "
                "Reshape it, to (1, draws) for instance."
            )
    groups: dict[str, Any] = {"posterior": posterior}
    if sample_stats is not None:
        groups["sample_stats"] = {name: np.asarray(v) for name, v in sample_stats.items()}
    # ArviZ 0.23 would take the dictionary of groups for one variable.
    return az.from_dict(groups) if _IS_ARVIZ_1 else az.from_dict(**groups)


def summarise(data: Any) -> dict[str, dict[str, float]]:
    """Mean, sd, MCSE of both, ESS (bulk and tail) and R-hat of each variable, by ArviZ.

    ESS and R-hat measure how well draws represent the *sampler's own* distribution: for independent
    draws they are perfect, whether or not that distribution is the target.
    """
    table = az.summary(data, kind="all", round_to="none")[_COLUMNS]
    return {
        str(variable): {column: float(value) for column, value in row.items()}
        for variable, row in table.iterrows()
    }


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
    draws = rows.shape[1]
    in_tail = math.ceil(min(0.2 * draws, 3.0 * draws**0.5))
    tails = np.sort(rows, axis=-1)[:, -in_tail:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller warns of a large k-hat
        spread = tails[:, -1] - tails[:, 0] > 1e-4
        if in_tail < _SMALLEST_TAIL:
            k_hat[spread] = np.inf
        elif spread.any():
            rows[spread], k_hat[spread] = _smooth_tail(rows[spread])
        rows -= logsumexp(rows, axis=-1, keepdims=True)
    return rows.reshape(log_weights.shape), k_hat.reshape(log_weights.shape[:-1])


def _smooth_tail(log_weights: np.ndarray) -> Any:
    if not _IS_ARVIZ_1:
        return az.psislw(log_weights)
    from arviz_stats.base import array_stats

    # ArviZ 1.x takes log-likelihoods: minus the log-weights.
    return array_stats.psislw(-log_weights)
