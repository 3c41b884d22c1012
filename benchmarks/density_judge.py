"""How good a trained model is: log p(x) of points it has not seen."""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from scipy.special import logsumexp

import jax
from jax import random
import jax.numpy as jnp

from numpyro.infer import ELBO, Trace_ELBO

from benchmarks.density_programs import Task
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.reports import pareto_k

#: Seed of what judges: it is the same for all trainings.
_SEED = 2**31

#: Draws that are evaluated together.
_CHUNK = 16_384

#: Draws of each point behind a single log-weight matrix.
_ROWS = 50

#: Draws of each validation point.
_VALIDATION = 100

#: What is unbiased for log p(x) here, and how many estimates there are of each point: for figures
#: in few draws and in many, and for pictures.
_FINE = MultilevelSUMO(200, data_axes=0, chunk_size=_CHUNK), 2
_ROUGH = MultilevelSUMO(16, data_axes=0, chunk_size=_CHUNK), 4

#: All that figures depend on, beside the number of draws.
JUDGED_BY = {"seed": _SEED, "fine": repr(_FINE), "rough": repr(_ROUGH), "validation": _VALIDATION}


class Judge:
    """Judges parameters for one task.

    :param num_draws: of each test point, for the bound.
    :param compiled: what was compiled, by judges of the same model of other data too.
    """

    def __init__(self, task: Task, num_draws: int, compiled: dict[Any, Callable]):
        self.task, self.num_draws, self._compiled = task, num_draws, compiled

    def observed(self, points: np.ndarray) -> np.ndarray:
        """Observations of points."""
        return self.task.observations(random.key(_SEED), points)

    def verdict(self, params: Any, loss: ELBO, draws: int) -> dict[str, float]:
        """Negative log-likelihood of the test points, and the bias of what was trained on.

        All in nats per point, with Monte Carlo standard errors.

        :param loss: that it was, ``draws`` its expected number of them.
        """
        points = self.observed(self.task.data.test)
        log_weights = self._log_weights(params, points, self.num_draws)
        bound = _log_mean(log_weights)
        fine = self._estimates(params, *(_FINE if self.num_draws > 1_000 else _ROUGH), points, 1)
        evidence, error = _mean_and_error(fine)
        objective = self._objective(params, loss, draws, points, log_weights)
        value, value_error = _mean_and_error(objective)
        return {
            "nll_bound": float(-bound.mean()),
            "nll_bound_se": _error_of_bound(log_weights),
            "nll": -evidence,
            "nll_se": error,
            "bias": value - evidence,
            "bias_se": float(np.hypot(error, value_error)),
            "pareto_k": float(np.quantile(pareto_k(log_weights.T), 0.9)),
        }

    def validation(self, params: Any) -> float:
        """Negative log-likelihood of the validation points, by a bound over few draws."""
        points = self.observed(self.task.data.validation)
        return float(-_log_mean(self._log_weights(params, points, _VALIDATION)).mean())

    def log_density(self, params: Any, points: np.ndarray) -> np.ndarray:
        """Unbiased estimates of log p(x) of each point, rough ones: for pictures."""
        return self._estimates(params, *_ROUGH, points, 1).mean(axis=0)

    def _log_weights(self, params, points, num_draws):
        """Log-weights of shape ``(num_draws, points)``."""
        parts = [
            self._estimates(params, IWELBO(1), _ROWS, points, 1_000 + index)
            for index in range(-(-num_draws // _ROWS))
        ]
        return np.concatenate(parts)[:num_draws]

    def _objective(self, params, loss, draws, points, log_weights):
        """Independent estimates such as were trained on, shape ``(estimates, points)``."""
        if isinstance(loss, (SUMO, MultilevelSUMO)):
            num_estimates = max(2, self.num_draws // (4 * draws))
            alone = copy(loss)
            alone.guide_objective = None  # estimates do not depend on it
            alone.data_axes = 0  # a stopping time for each point, as in a batch
            return self._estimates(params, alone, num_estimates, points, 0)
        if isinstance(loss, Trace_ELBO):
            return log_weights
        whole = len(log_weights) // draws * draws
        return _log_mean(log_weights[:whole].reshape(draws, -1, len(points)))

    def _estimates(self, params, loss, num_estimates, points, seed):
        """Estimates of log p(x) of each point, shape ``(num_estimates, points)``."""
        model, guide = self.task.model, self.task.guide
        kind = (model, repr(loss), num_estimates)
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


def _error_of_bound(log_weights: np.ndarray) -> float:
    """Standard error of the mean over points of such bounds, by the delta method."""
    size = len(log_weights)
    log_moments = (logsumexp(power * log_weights, axis=0) - np.log(size) for power in (1, 2))
    first, second = log_moments
    variances = np.expm1(second - 2.0 * first) / size
    return float(np.sqrt(variances.sum()) / log_weights.shape[1])


def _mean_and_error(estimates: np.ndarray) -> tuple[float, float]:
    """Mean over points of independent estimates ``(estimates, points)``, and its error."""
    variances = estimates.var(axis=0, ddof=1) / len(estimates)
    return float(estimates.mean()), float(np.sqrt(variances.sum()) / estimates.shape[1])
