"""Bias and variance of each estimator of log p(x), and of its gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import random
import jax.numpy as jnp

from benchmarks.common.interrupts import raise_if_interrupted
from benchmarks.models.conjugate import MODELS, ConjugateModel
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.diagnostics.pareto_k import pareto_k
from numpyro_sumo.losses.base import ImportanceLoss
from numpyro_sumo.programs.programs import Programs

MISMATCHES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ESTIMATORS: dict[str, ImportanceLoss] = {
    "iwelbo": IWELBO(8),
    "sumo": SUMO(8, share_stopping_times=True),
    "multilevel": MultilevelSUMO(8, share_stopping_times=True),
}
#: Estimates computed together.
BATCH = 1_000


def measure_all(results: dict[str, Any], rng_key: jax.Array, num_batches: int) -> None:
    """Measure every model, mismatch and estimator, and add each finished row to ``results``."""
    total = len(MODELS) * len(MISMATCHES) * (1 + len(ESTIMATORS))
    with tqdm(total=total, unit="cell") as bar:
        for model_name, problem in MODELS.items():
            entry: dict[str, Any] = {"title": problem.title, "cells": []}
            weigh = batch_of(problem, IWELBO(1))
            batches = {name: batch_of(problem, loss) for name, loss in ESTIMATORS.items()}
            for mismatch in MISMATCHES:
                log_weights, _ = weigh(rng_key, mismatch)
                cell: dict[str, Any] = {"mismatch": mismatch, "estimators": {}}
                cell["pareto_k"] = float(np.max(pareto_k(np.asarray(log_weights).T)))
                bar.update()
                for name, loss in ESTIMATORS.items():
                    bar.set_postfix_str(f"{model_name}, {mismatch}, {name}")
                    found = [
                        batches[name](random.fold_in(rng_key, 1 + index), mismatch)
                        for index in range(num_batches)
                    ]
                    cell["estimators"][name] = figures(problem, loss, found)
                    bar.update()
                    raise_if_interrupted()
                entry["cells"].append(cell)
                results["models"][model_name] = entry


def batch_of(problem: ConjugateModel, loss: ImportanceLoss) -> Callable:
    """Compiled map from (key, mismatch) to a batch of estimates and the gradient of their mean.

    The estimates have shape ``(BATCH, data)``.
    """

    @jax.jit
    def measure(rng_key, mismatch):
        def mean_estimate(theta):
            params, args = {"theta": theta}, (problem.x, mismatch)
            programs = Programs(problem.model, problem.guide, params, args)
            estimates, _ = loss.sample_estimates(rng_key, programs, BATCH)
            estimates = estimates.reshape(BATCH, -1)
            return estimates.sum(axis=1).mean(), estimates

        gradient, estimates = jax.grad(mean_estimate, has_aux=True)(jnp.asarray(problem.theta))
        return estimates, gradient

    return measure


def figures(
    problem: ConjugateModel, loss: ImportanceLoss, batches: list[tuple[jax.Array, jax.Array]]
) -> dict[str, float]:
    """Bias of value and gradient with standard errors, variance, and variance times mean draws.

    :param batches: from :func:`batch_of`.
    """
    total = np.concatenate([np.asarray(each, np.float64).sum(axis=1) for each, _ in batches])
    gradients = [float(gradient) for _, gradient in batches]
    theta = jnp.asarray(problem.theta)
    exact, exact_gradient = jax.value_and_grad(problem.log_evidence)(theta, problem.x)
    variance = float(total.var(ddof=1))
    return {
        "bias": float(total.mean() - exact),
        "bias_se": float((variance / total.size) ** 0.5),
        "gradient_bias": float(np.mean(gradients) - exact_gradient),
        "gradient_bias_se": float(np.std(gradients, ddof=1) / len(gradients) ** 0.5),
        "variance": variance,
        "variance_times_draws": variance * loss.mean_draws,
    }
