"""What importance weights say: log-evidence, k-hat, effective draws, and which to resample."""

from typing import NamedTuple

import numpy as np


class WeightSummary(NamedTuple):
    """Estimates from log-weights, an entry for each datum that has weights of its own, in nats.

    :param log_evidence: log of the mean weight, and its standard error ``log_evidence_se``.
    :param pareto_k: k-hat of the weights (Vehtari et al. 2024); −∞ where all are equal.
    :param ess: (Σw)² / Σw², the effective number of draws.
    :param relative: weights divided by their mean, with a leading axis of draws.
    :param smoothed: Pareto-smoothed weights that sum to one over the leading axis.
    """

    log_evidence: np.ndarray
    log_evidence_se: np.ndarray
    pareto_k: np.ndarray
    ess: np.ndarray
    relative: np.ndarray
    smoothed: np.ndarray

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
    from numpyro_sumo.diagnostics.pareto_k import pareto_smoothed

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
    return WeightSummary(
        log_evidence=largest + np.log(mean),
        log_evidence_se=relative.std(axis=0, ddof=1) / len(weights) ** 0.5,
        pareto_k=pareto_k,
        ess=weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0),
        relative=relative,
        smoothed=np.exp(np.moveaxis(smoothed, -1, 0)),
    )


def systematic_resampling(offset: float, weights: np.ndarray) -> np.ndarray:
    """Indices of draws: i appears N·wᵢ times, rounded up or down.

    :param offset: in [0, 1), at random.
    :param weights: shape ``(draws, *data)``; each datum is resampled by itself.
    """
    shares = np.cumsum(weights, axis=0).reshape(len(weights), -1)
    points = (np.arange(len(weights)) + offset) / len(weights)
    chosen = [np.searchsorted(each / each[-1], points, side="right") for each in shares.T]
    return np.stack(chosen, axis=1).reshape(weights.shape)
