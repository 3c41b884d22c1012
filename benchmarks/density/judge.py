"""Judge a trained model by log p(x) of test points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

import jax
from jax import random
import jax.numpy as jnp

from benchmarks.density.models import Task
from numpyro_sumo import IWELBO, MultilevelSUMO
from numpyro_sumo.diagnostics.pareto_k import pareto_k
from numpyro_sumo.losses.base import ImportanceLoss
from numpyro_sumo.programs.programs import Programs

#: The seed of all judging, the same for all trainings.
_SEED = 2**31

#: Draws evaluated together.
_CHUNK = 16_384

#: Draws of each point in one call.
_ROWS = 50

#: Draws of each validation point.
VALIDATION_DRAWS = 100

#: Independent unbiased estimates of log p(x) for each point.
_NUM_ESTIMATES = 2

#: For pictures: draws of each point, and points evaluated together.
_PICTURED, _PART = 2_000, 400


class Batch(NamedTuple):
    """A number of independent estimates by one loss."""

    loss: ImportanceLoss
    num_estimates: int
    seed: int


class Judge:
    """Judges the parameters of one task.

    :param num_draws: draws of each test point for the bound.
    :param num_particles: particles of MultilevelSUMO for each of two unbiased estimates.
    :param compiled: compiled functions, shared by judges of one model and several data sets.
    """

    def __init__(
        self, task: Task, num_draws: int, num_particles: int, compiled: dict[Any, Callable]
    ):
        self.task, self.num_draws, self._compiled = task, num_draws, compiled
        self.num_particles = num_particles
        self._test, self._validation = map(self.observed, (task.data.test, task.data.validation))

    def observed(self, points: np.ndarray) -> np.ndarray:
        """The observations that the model receives for these points."""
        return self.task.observations(random.key(_SEED), points)

    def figures(self, params: Any, longest: int | None) -> dict[str, float]:
        """Negative log-likelihood of the test points, and the bias of the training objective.

        All in nats per point, with Monte Carlo standard errors.

        :param longest: the number of draws of the bound that the objective estimates; None if it
            estimates log p(x), without bias.
        """
        log_weights = self._log_weights(params, self._test, self.num_draws)
        bound = _log_mean(log_weights)
        unbiased = MultilevelSUMO(self.num_particles, data_axes=0, chunk_size=_CHUNK)
        estimates = self._estimates(params, Batch(unbiased, _NUM_ESTIMATES, 1), self._test)
        evidence, error = _mean_and_error(estimates)
        bias = bias_error = 0.0
        if longest is not None:
            objective, objective_error = _bound_over(longest, log_weights)
            bias, bias_error = objective - evidence, float(np.hypot(error, objective_error))
        return {
            "nll_bound": float(-bound.mean()),
            "nll_bound_se": _error_of_bound(log_weights),
            "nll": -evidence,
            "nll_se": error,
            "bias": bias,
            "bias_se": bias_error,
            "pareto_k": float(np.quantile(pareto_k(log_weights.T), 0.9)),
        }

    def validation(self, params: Any) -> float:
        """Negative log-likelihood of the validation points, by a bound; nats per point."""
        return float(
            -_log_mean(self._log_weights(params, self._validation, VALIDATION_DRAWS)).mean()
        )

    def log_density(self, params: Any, points: np.ndarray, guide: Callable) -> np.ndarray:
        """log p(x) of each point by a bound, for pictures.

        :param guide: replaces the task's guide, which is not trained far from the data.
        """
        parts = np.split(points, range(_PART, len(points), _PART))
        draws = (self._log_weights(params, part, _PICTURED, guide) for part in parts)
        return np.concatenate([_log_mean(log_weights) for log_weights in draws])

    def _log_weights(
        self, params: Any, points: np.ndarray, num_draws: int, guide: Callable | None = None
    ) -> np.ndarray:
        """Log-weights of shape ``(num_draws, points)``."""
        parts = [
            self._estimates(params, Batch(IWELBO(1), _ROWS, 1_000 + index), points, guide)
            for index in range(-(-num_draws // _ROWS))
        ]
        return np.concatenate(parts)[:num_draws]

    def _estimates(
        self, params: Any, batch: Batch, points: np.ndarray, guide: Callable | None = None
    ) -> np.ndarray:
        """Estimates of log p(x) of each point, shape ``(num_estimates, points)``."""
        loss, num_estimates, seed = batch
        model, guide = self.task.model, guide or self.task.guide
        kind = (model, guide, repr(loss), num_estimates)
        if kind not in self._compiled:
            self._compiled[kind] = jax.jit(
                lambda key, params, points: loss.sample_estimates(
                    key, Programs(model, guide, params, (points,)), num_estimates
                )[0]
            )
        key = random.fold_in(random.key(_SEED + 1), seed)
        return np.asarray(self._compiled[kind](key, params, jnp.asarray(points)), np.float64)


def _log_mean(log_weights: np.ndarray) -> np.ndarray:
    """The importance-weighted bound along the leading axis."""
    return logsumexp(log_weights, axis=0) - np.log(len(log_weights))


def _bound_over(num_draws: int, log_weights: np.ndarray) -> tuple[float, float]:
    """The bound over ``num_draws``, mean over points, and its error; NaN if there are fewer.

    With the largest possible number of draws, it is the exact mean of SUMO and MultilevelSUMO.
    """
    num_groups = len(log_weights) // num_draws
    if num_groups == 0:
        return float("nan"), float("nan")
    if num_groups == 1:
        of_these = log_weights[:num_draws]
        return float(_log_mean(of_these).mean()), _error_of_bound(of_these)
    groups = log_weights[: num_groups * num_draws].reshape(num_draws, num_groups, -1)
    return _mean_and_error(_log_mean(groups))


def _error_of_bound(log_weights: np.ndarray) -> float:
    """Standard error of the mean of :func:`_log_mean` over points, by the delta method."""
    size = len(log_weights)
    log_moments = (logsumexp(power * log_weights, axis=0) - np.log(size) for power in (1, 2))
    first, second = log_moments
    variances = np.maximum(np.expm1(second - 2.0 * first), 0.0) / size
    return float(np.sqrt(variances.sum()) / log_weights.shape[1])


def _mean_and_error(estimates: np.ndarray) -> tuple[float, float]:
    """Mean of independent estimates, shape ``(estimates, points)``, and its standard error."""
    variances = estimates.var(axis=0, ddof=1) / len(estimates)
    return float(estimates.mean()), float(np.sqrt(variances.sum()) / estimates.shape[1])
