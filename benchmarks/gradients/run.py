"""Mean and variance of the guide's gradient with ``gradient="dreg"`` and ``"standard"``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import lax, random

import numpyro

from benchmarks.common.interrupts import raise_if_interrupted
from benchmarks.models.conjugate import MODELS, ConjugateModel
from numpyro_sumo import IWELBO, MultilevelSUMO
from numpyro_sumo.losses.base import ImportanceLoss

MISMATCHES = (0.0, 0.1, 0.3)
NUM_PARTICLES = 4
#: SUMO is left out: its guide is trained on IWELBO's bound, by the same gradient.
LOSSES: dict[str, Callable[..., ImportanceLoss]] = {
    "IWELBO": IWELBO,
    "MultilevelSUMO": partial(MultilevelSUMO, share_stopping_times=True),
}
#: Gradients computed together.
BATCH = 100


def compare_all(cells: list[dict[str, Any]], rng_key: jax.Array, num_keys: int) -> None:
    """Compare the gradients of every model, loss and mismatch, and add them to ``cells``."""
    for model, name in tqdm([(model, name) for model in MODELS for name in LOSSES], unit="case"):
        cells += compare(model, name, rng_key, num_keys)
        raise_if_interrupted()


def compare(model: str, name: str, rng_key: jax.Array, num_keys: int) -> list[dict[str, Any]]:
    """Mean and variance of both gradients of one loss, at every mismatch."""
    compiled = {
        gradient: gradients_at(MODELS[model], LOSSES[name](NUM_PARTICLES, gradient=gradient))
        for gradient in ("dreg", "standard")
    }
    cells = []
    for mismatch in MISMATCHES:
        cell: dict[str, Any] = {"model": model, "loss": name, "mismatch": mismatch}
        for index, (gradient, evaluate) in enumerate(compiled.items()):
            keys = random.split(random.fold_in(rng_key, index), num_keys)
            found = np.asarray(evaluate(keys, mismatch), np.float64)
            cell[gradient] = {
                "mean": float(found.mean()),
                "mean_se": float(found.std(ddof=1) / num_keys**0.5),
                "variance": float(found.var(ddof=1)),
            }
        cells.append(cell)
    return cells


def gradients_at(problem: ConjugateModel, loss: ImportanceLoss) -> Any:
    """Compiled map from (keys, mismatch) to the loss's derivatives in the mismatch."""

    def guide(x, _):
        problem.guide(x, numpyro.param("mismatch", 0.0))

    def loss_at(mismatch, rng_key):
        params = {"theta": problem.theta, "mismatch": mismatch}
        return loss.loss(rng_key, params, problem.model, guide, problem.x, mismatch)

    gradient = jax.grad(loss_at)
    return jax.jit(
        lambda keys, mismatch: lax.map(lambda key: gradient(mismatch, key), keys, batch_size=BATCH)
    )
