"""What importance weights say: log-evidence, k-hat, effective draws, and which to resample."""

from typing import NamedTuple

import numpy as np


class WeightSummary(NamedTuple):
    """Estimates from log-weights, an entry for each datum that has weights of its own, in nats.

    :param log_evidence: log of the mean weight.
    :param log_evidence_se: its error: the standard error over draws together with ``tail_error``.
    :param pareto_k: k-hat of the weights (Vehtari et al. 2024); −∞ where all are equal.
    :param ess: (Σw)² / Σw², the effective number of draws.
    :param relative: weights divided by their mean, with a leading axis of draws.
    :param smoothed: Pareto-smoothed weights that sum to one over the leading axis.
    :param tail_error: the part of ``log_evidence_se`` that comes of not knowing how heavy the tail
        of the weights is; see :func:`tail_error`.
    """

    log_evidence: np.ndarray
    log_evidence_se: np.ndarray
    pareto_k: np.ndarray
    ess: np.ndarray
    relative: np.ndarray
    smoothed: np.ndarray
    tail_error: np.ndarray

    @property
    def total_tail_error(self) -> float:
        """That of all data together, whose tails are independent."""
        return float(np.linalg.norm(np.ravel(self.tail_error)))

    @property
    def influence(self) -> np.ndarray:
        """What each draw adds to log-evidence, up to a constant, to first order: of all data.

        d log(mean weight) = d(mean weight) / mean weight.
        """
        return np.asarray(self.relative.reshape(len(self.relative), -1).sum(axis=1))


def summarise_weights(log_weights: np.ndarray) -> WeightSummary:
    """The summary of log-weights of shape ``(draws, *data)``.

    :raises ValueError: if all weights of a datum are zero.
    """
    # Imported here because ArviZ takes seconds to import.
    from numpyro_sumo.diagnostics.pareto_k import pareto_smoothed, tail_size

    largest = log_weights.max(axis=0)
    if np.any(largest == -np.inf):
        raise ValueError(
            f"Expected draws in the support of the model; all {len(log_weights)} lie outside. "
            "Give the guide's sites the supports of the model's."
        )
    weights = np.exp(log_weights - largest)
    mean = weights.mean(axis=0)
    smoothed, pareto_k = pareto_smoothed(np.moveaxis(log_weights, 0, -1))
    relative = weights / mean
    of_tail = tail_error(relative, pareto_k, tail_size(len(weights)))
    return WeightSummary(
        log_evidence=largest + np.log(mean),
        log_evidence_se=np.hypot(relative.std(axis=0, ddof=1) / len(weights) ** 0.5, of_tail),
        pareto_k=pareto_k,
        ess=weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0),
        relative=relative,
        smoothed=np.exp(np.moveaxis(smoothed, -1, 0)),
        tail_error=of_tail,
    )


def tail_error(relative: np.ndarray, pareto_k: np.ndarray, in_tail: int) -> np.ndarray:
    r"""The error of the mean weight that comes of not knowing how heavy the tail of weights is.

    Rare large weights that were not drawn do not show in the spread of those that were. The m
    largest of N weights have the mean excess e above the threshold. For a generalised Pareto
    distribution of index k, e is its scale / (1 − k), so that with k raised from k-hat by two of
    its standard errors, δ, the mean weight is larger by twice

    .. math::
        \frac{1}{2} \, \frac{m}{N} \, e \, \frac{\delta}{1 - \hat k - \delta}, \qquad
        \delta = 2 \, \frac{1 + \max(\hat k, 0)}{\sqrt{m}}

    which is returned. It is ∞ for a raised index of 1 or more, whose weights have no mean.

    :param relative: weights divided by their mean, with a leading axis of draws.
    :param pareto_k: their k-hat; where it is −∞, all weights are equal, and the error is zero.
    :param in_tail: m.

    **Reference:** Hosking and Wallis 1987, *Parameter and quantile estimation for the generalized
    Pareto distribution*, for the mean excess and the error of k-hat.
    """
    ordered = np.sort(relative, axis=0)
    threshold = ordered[-min(in_tail + 1, len(ordered))]
    excess = ordered[-in_tail:].mean(axis=0) - threshold
    index = np.where(np.isfinite(pareto_k), pareto_k, 0.0)
    step = 2.0 * (1.0 + np.maximum(index, 0.0)) / in_tail**0.5
    rest = 1.0 - index - step
    error = 0.5 * in_tail / len(relative) * excess * step / np.where(rest > 0.0, rest, 1.0)
    unknown = (rest <= 0.0) | (pareto_k == np.inf) | np.isnan(pareto_k)
    return np.where(pareto_k == -np.inf, 0.0, np.where(unknown, np.inf, error))


def systematic_resampling(offset: float, weights: np.ndarray) -> np.ndarray:
    """Indices of draws: i appears N·wᵢ times, rounded up or down.

    :param offset: in [0, 1), at random.
    :param weights: shape ``(draws, *data)``; each datum is resampled by itself.
    """
    shares = np.cumsum(weights, axis=0).reshape(len(weights), -1)
    points = (np.arange(len(weights)) + offset) / len(weights)
    chosen = [np.searchsorted(each / each[-1], points, side="right") for each in shares.T]
    return np.stack(chosen, axis=1).reshape(weights.shape)
