"""How good a trained model is: log p(x) of points it has not seen."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp

import jax
from jax import random
import jax.numpy as jnp

from benchmarks.density.models import Task
from numpyro_sumo import IWELBO, MultilevelSUMO
from numpyro_sumo.diagnostics.arviz import pareto_k

#: Seed of what judges: it is the same for all trainings.
_SEED = 2**31

#: Draws that are evaluated together.
_CHUNK = 16_384

#: Draws of each point behind a single log-weight matrix.
_ROWS = 50

#: Draws of each validation point.
VALIDATION_DRAWS = 100

#: Independent unbiased estimates of log p(x) of each point.
_NUM_ESTIMATES = 2

#: Draws of each point of a picture, and points that are evaluated together.
_PICTURED, _PART = 2_000, 400


class Judge:
    """Judges parameters for one task.

    :param num_draws: of each test point, for the bound.
    :param num_particles: of MultilevelSUMO for each unbiased estimate, of which there are two.
    :param compiled: what was compiled, by judges of the same model of other data too.
    """

    def __init__(
        self, task: Task, num_draws: int, num_particles: int, compiled: dict[Any, Callable]
    ):
        self.task, self.num_draws, self._compiled = task, num_draws, compiled
        self.num_particles = num_particles
        self._test, self._validation = map(self.observed, (task.data.test, task.data.validation))

    def observed(self, points: np.ndarray) -> np.ndarray:
        """Observations of points."""
        return self.task.observations(random.key(_SEED), points)

    def verdict(self, params: Any, longest: int) -> dict[str, float]:
        """Negative log-likelihood of the test points, and the bias of what was trained on.

        All in nats per point, with Monte Carlo standard errors.

        :param longest: the objective was the bound over so many draws, in expectation.
        """
        log_weights = self._log_weights(params, self._test, self.num_draws)
        bound = _log_mean(log_weights)
        unbiased = MultilevelSUMO(self.num_particles, data_axes=0, chunk_size=_CHUNK)
        estimates = self._estimates(params, unbiased, _NUM_ESTIMATES, self._test, 1)
        evidence, error = _mean_and_error(estimates)
        objective, objective_error = _bound_over(longest, log_weights)
        return {
            "nll_bound": float(-bound.mean()),
            "nll_bound_se": _error_of_bound(log_weights),
            "nll": -evidence,
            "nll_se": error,
            "bias": objective - evidence,
            "bias_se": float(np.hypot(error, objective_error)),
            "pareto_k": float(np.quantile(pareto_k(log_weights.T), 0.9)),
        }

    def validation(self, params: Any) -> float:
        """Negative log-likelihood of the validation points, by a bound over few draws."""
        return float(
            -_log_mean(self._log_weights(params, self._validation, VALIDATION_DRAWS)).mean()
        )

    def log_density(self, params: Any, points: np.ndarray, guide: Callable) -> np.ndarray:
        """log p(x) of each point by a bound, with a guide of its own: for pictures.

        Far from the data, where it was never trained, the task's own guide is of no use.
        """
        parts = np.split(points, range(_PART, len(points), _PART))
        draws = (self._log_weights(params, part, _PICTURED, guide) for part in parts)
        return np.concatenate([_log_mean(log_weights) for log_weights in draws])

    def _log_weights(self, params, points, num_draws, guide=None):
        """Log-weights of shape ``(num_draws, points)``."""
        parts = [
            self._estimates(params, IWELBO(1), _ROWS, points, 1_000 + index, guide)
            for index in range(-(-num_draws // _ROWS))
        ]
        return np.concatenate(parts)[:num_draws]

    def _estimates(self, params, loss, num_estimates, points, seed, guide=None):
        """Estimates of log p(x) of each point, shape ``(num_estimates, points)``."""
        model, guide = self.task.model, guide or self.task.guide
        kind = (model, guide, repr(loss), num_estimates)
        if kind not in self._compiled:
            self._compiled[kind] = jax.jit(
                lambda key, params, points: loss.estimates(
                    key, params, model, guide, (points,), {}, num_estimates
                )[0]
            )
        key = random.fold_in(random.key(_SEED + 1), seed)
        return np.asarray(self._compiled[kind](key, params, jnp.asarray(points)), np.float64)


def _log_mean(log_weights: np.ndarray) -> np.ndarray:
    """The importance-weighted bound along the leading axis."""
    return logsumexp(log_weights, axis=0) - np.log(len(log_weights))


def _bound_over(num_draws: int, log_weights: np.ndarray) -> tuple[float, float]:
    """The bound over so many draws, mean over points, and its error; NaN if there are fewer.

    SUMO and MultilevelSUMO have it as their mean exactly, with the number of draws that there may
    be at the most.
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
    """Standard error of the mean over points of such bounds, by the delta method."""
    size = len(log_weights)
    log_moments = (logsumexp(power * log_weights, axis=0) - np.log(size) for power in (1, 2))
    first, second = log_moments
    variances = np.maximum(np.expm1(second - 2.0 * first), 0.0) / size
    return float(np.sqrt(variances.sum()) / log_weights.shape[1])


def _mean_and_error(estimates: np.ndarray) -> tuple[float, float]:
    """Mean over points of independent estimates ``(estimates, points)``, and its error."""
    variances = estimates.var(axis=0, ddof=1) / len(estimates)
    return float(estimates.mean()), float(np.sqrt(variances.sum()) / estimates.shape[1])
