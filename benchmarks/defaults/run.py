"""Train guides with each variant of each loss, and measure their distance to the posterior."""

from collections.abc import Iterator
import time
from typing import Any

import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import SVI

from benchmarks.models.by_quadrature import MODELS, QuadratureModel
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.losses.base import ImportanceLoss
from numpyro_sumo.programs.programs import Programs

_OF_IWELBO = {
    "dreg, 8": dict(num_particles=8, gradient="dreg"),
    "standard, 8": dict(num_particles=8, gradient="standard"),
    "dreg, 2": dict(num_particles=2, gradient="dreg"),
    "dreg, 4": dict(num_particles=4, gradient="dreg"),
    "dreg, 32": dict(num_particles=32, gradient="dreg"),
}
_VARIANCE = {"variance, 8": dict(num_particles=8, guide_objective="variance")}
# Data of a whole plate share one stopping time.
_OF_SUMO = {
    name: options | {"share_stopping_times": True}
    for name, options in (_OF_IWELBO | _VARIANCE).items()
}
#: Keyword arguments by loss and variant. All variants make as many draws in total as the first.
VARIANTS: dict[type[ImportanceLoss], dict[str, dict[str, Any]]] = {
    IWELBO: _OF_IWELBO,
    SUMO: _OF_SUMO,
    MultilevelSUMO: _OF_SUMO,
}
LEARNING_RATE = 1e-2
MAX_GRADIENT_NORM = 10.0
#: Particles of the bound that guides are judged by, and independent values of it.
BOUND = 8
NUM_BOUNDS = 2_000


def missing(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The cases (model, loss, variant) without current results, under a progress bar."""
    every = [
        (model, loss_class.__name__, variant)
        for model in MODELS
        for loss_class, variants in VARIANTS.items()
        for variant in variants
    ]
    done = results["models"]
    known = lambda m, n, v: done.get(m, {}).get(n, {}).get(v, {}).get("loss")
    left = [(m, n, v) for m, n, v in every if known(m, n, v) != repr(make_loss(n, v))]
    bar = tqdm(left, unit="run", initial=len(every) - len(left), total=len(every))
    for case in bar:
        bar.set_postfix_str(", ".join(case))
        yield case


def make_loss(name: str, variant: str) -> ImportanceLoss:
    """A loss by the names of its class and variant."""
    (loss_class,) = (each for each in VARIANTS if each.__name__ == name)
    options: dict[str, Any] = VARIANTS[loss_class][variant]
    return loss_class(**options)


def train_and_judge(
    model: str, name: str, variant: str, steps: int, num_seeds: int
) -> dict[str, Any]:
    """Train guides from all seeds together, and measure how good they are.

    :param steps: training steps of the loss's first variant; others get as many draws in total.
    """
    problem = MODELS[model]
    loss = make_loss(name, variant)
    first = make_loss(name, next(iter(VARIANTS[type(loss)])))
    num_steps = max(1, round(steps * first.draws_per_step / loss.draws_per_step))
    started = time.perf_counter()
    params = fit(problem, loss, num_steps, num_seeds)
    seconds = time.perf_counter() - started
    return {
        "num_steps": num_steps,
        "loss": repr(loss),
        "draws_per_step": loss.draws_per_step,
        "seconds": seconds,
        "seeds": judge_guides(problem, params, num_seeds),
    }


def fit(
    problem: QuadratureModel, loss: ImportanceLoss, num_steps: int, num_seeds: int
) -> dict[str, Any]:
    """The parameters after training, with a leading axis of seeds."""
    guide = problem.make_guide(problem.model)
    optimiser = optax.chain(
        optax.clip_by_global_norm(MAX_GRADIENT_NORM),
        optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps)),
    )
    svi = SVI(problem.model, guide, optimiser, loss)
    run = lambda seed: svi.run(random.key(seed), num_steps, progress_bar=False).params
    return jax.block_until_ready(jax.jit(jax.vmap(run))(np.arange(num_seeds)))


def judge_guides(
    problem: QuadratureModel, params: dict[str, Any], num_seeds: int
) -> list[dict[str, float]]:
    """For every seed, how far bound and ELBO are below log p(x), in nats."""
    guide = problem.make_guide(problem.model)
    SVI(problem.model, guide, optax.sgd(0.0), IWELBO(1)).init(random.key(0))

    @jax.jit
    def evaluate(seed, params):
        programs = Programs(problem.model, guide, params)
        log_weights, _ = IWELBO(1).sample_estimates(random.key(seed), programs, BOUND * NUM_BOUNDS)
        groups = log_weights.reshape(BOUND, NUM_BOUNDS, -1)
        return importance_weighted_bound(groups).sum(axis=-1), log_weights.sum()

    figures = []
    for seed in range(num_seeds):
        of_seed = jax.tree.map(lambda leaf: leaf[seed], params)  # noqa: B023 - called at once
        bounds, total = evaluate(1_000 + seed, of_seed)
        bounds = np.asarray(bounds, np.float64)
        exact = problem.log_evidence(of_seed)
        figures.append(
            {
                "log_evidence": exact,
                "gap": exact - float(bounds.mean()),
                "gap_se": float(bounds.std(ddof=1)) / NUM_BOUNDS**0.5,
                "kl": exact - float(total) / (BOUND * NUM_BOUNDS),
            }
        )
    return figures
