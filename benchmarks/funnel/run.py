"""Train the funnel's samplers, draw from them, and judge them beside NUTS and exact draws."""

from collections.abc import Callable
from functools import partial
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import optax

import jax
from jax import random

from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, SVI, Predictive
from numpyro.infer.reparam import LocScaleReparam

from benchmarks.common.interrupts import forget_interrupt, raise_if_interrupted
from benchmarks.common.judge import judge
from benchmarks.common.training import TrainingRun, train
from benchmarks.funnel.models import (
    ARMS,
    GUIDE,
    KNOWN_MARGINALS,
    PROBABILITIES,
    SCALE_OF_V,
    TITLES,
    target,
)
from numpyro_sumo import KLSandwich, ReverseKL, kl_sandwich

LEARNING_RATE = 3e-3
#: Adam's second moment averages over 100 steps, not 1,000, so that one rare large gradient does
#: not shrink the following steps for long.
SECOND_MOMENT_DECAY = 0.99
MAX_GRADIENT_NORM = 100.0
NUM_CHAINS = 4

Judgement = tuple[Any, dict[str, Any]]


class Scale(NamedTuple):
    """The size of each part of the benchmark.

    :param mcmc: warm-up draws of each chain of NUTS, and draws after it.
    :param sandwich: draws of x, and of u for each, that enclose the final KL divergence.
    :param curve: the same for KL divergences during training.
    :param contour_particles: draws of u for each point of the contour plots.
    """

    steps: int
    draws: int
    mcmc: int
    sandwich: tuple[int, int]
    curve: tuple[int, int]
    contour_particles: int


DEFAULT = Scale(20_000, 20_000, 1_000, (20_000, 500), (4_000, 200), 128)
QUICK = Scale(200, 2_000, 250, (500, 100), (500, 100), 16)


class Outcome(NamedTuple):
    """Everything the report and pictures are made of.

    :param results: plain values for the JSON file.
    :param data: ArviZ data by sampler.
    :param runs: training runs by loss.
    """

    results: dict[str, Any]
    data: dict[str, Any]
    runs: dict[str, TrainingRun]


def new_outcome(scale: Scale, seed: int) -> Outcome:
    """The outcome before any sampler is judged."""
    results = {
        "seed": seed,
        "steps": scale.steps,
        "draws_per_step": ARMS["sumo"].num_particles,
        "scale_of_v": SCALE_OF_V,
        "samplers": {},
    }
    return Outcome(results, {}, {})


def run_all(outcome: Outcome, scale: Scale, seed: int) -> None:
    """Train and judge all samplers, and add each to ``outcome``.

    :raises KeyboardInterrupt: after Ctrl-C; in training, once what is trained has been judged.
    """
    started, key = time.perf_counter(), random.key(seed)
    interrupted = not _train_all(outcome.runs, random.fold_in(key, 0), scale.steps)
    non_centred = reparam(target, config={"x": LocScaleReparam(0.0)})
    judges: dict[str, Callable[[], Judgement]] = {
        name: partial(judge_arm, ARMS[name], run, random.fold_in(key, 1), scale)
        for name, run in outcome.runs.items()
    }
    judges["nuts_centred"] = partial(judge_nuts, target, random.fold_in(key, 2), scale)
    judges["nuts_noncentred"] = partial(judge_nuts, non_centred, random.fold_in(key, 2), scale)
    judges["exact"] = partial(judge_exact, random.fold_in(key, 3), scale)
    for name, judge_sampler in judges.items():
        outcome.data[name], figures = judge_sampler()
        outcome.results["samplers"][name] = figures | {"title": TITLES[name]}
        outcome.results["seconds"] = time.perf_counter() - started
        raise_if_interrupted()
    if interrupted:
        raise KeyboardInterrupt


def _train_all(runs: dict[str, TrainingRun], rng_key: jax.Array, num_steps: int) -> bool:
    """Train with every loss, and add the runs to ``runs``; whether Ctrl-C did not end it early."""
    try:
        for name, loss in ARMS.items():
            runs[name] = train_arm(TITLES[name], loss, rng_key, num_steps)
            if runs[name].interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not runs:
            raise
        forget_interrupt()
        print("funnel: interrupted; judging what is trained. Ctrl-C ends that.", file=sys.stderr)
        return False
    return True


def train_arm(
    title: str,
    loss: ReverseKL,
    rng_key: jax.Array,
    num_steps: int,
    *,
    second_moment_decay: float = SECOND_MOMENT_DECAY,
    max_gradient_norm: float = MAX_GRADIENT_NORM,
) -> TrainingRun:
    """Train the sampler with one loss; the same key gives all losses the same start."""
    learning_rate = optax.cosine_decay_schedule(LEARNING_RATE, num_steps)
    optimiser = optax.chain(
        optax.clip_by_global_norm(max_gradient_norm),
        optax.adam(learning_rate, b2=second_moment_decay),
    )
    svi = SVI(target, GUIDE, optimiser, loss=loss)
    snapshot_steps = [num_steps * tenth // 10 for tenth in range(1, 10)]
    return train(svi, rng_key, num_steps, name=title, snapshot_steps=snapshot_steps)


@partial(jax.jit, static_argnames=["num_draws"])
def draw_learned(rng_key: jax.Array, params: dict[str, Any], num_draws: int) -> dict:
    """Draw all sites of the sampler with these parameters."""
    return Predictive(GUIDE, params=params, num_samples=num_draws, parallel=True)(rng_key)


@partial(jax.jit, static_argnames=["num_samples", "num_particles"])
def sandwich(
    rng_key: jax.Array, params: dict[str, Any], num_samples: int, num_particles: int
) -> KLSandwich:
    """Bounds on the KL divergence of the sampler from the target; see ``kl_sandwich``."""
    return kl_sandwich(
        rng_key, target, GUIDE, params, num_samples=num_samples, num_particles=num_particles
    )


def judge_arm(loss: ReverseKL, run: TrainingRun, rng_key: jax.Array, scale: Scale) -> Judgement:
    """Judge a trained sampler by its draws and its KL divergence during and after training."""
    draws, seconds = _timed(lambda: draw_learned(rng_key, run.params, scale.draws))
    data, figures = judge(_in_chains(draws), KNOWN_MARGINALS, PROBABILITIES)
    kl = lambda params, size: _floats(sandwich(rng_key, params, *size))
    figures |= {
        "loss": repr(loss),
        "mean_draws": loss.marginal.mean_draws,
        "kl": kl(run.params, scale.sandwich),
        "steps": run.steps,
        "interrupted": run.interrupted,
        "seconds_to_train": run.seconds,
        "seconds_to_compile": run.compile_seconds,
        "steps_per_second": run.steps / max(run.seconds, 1e-9),
        "seconds_per_10000_draws": 10_000 * seconds / scale.draws,
        "curve": {
            "objective_steps": [run.block_size * (i + 1) for i in range(len(run.losses))],
            "objective": run.losses,
            "objective_se": run.loss_errors,
            "kl_steps": list(run.snapshots),
            "kl": [kl(params, scale.curve) for params in run.snapshots.values()],
        },
    }
    return data, figures


def judge_nuts(model: Callable, rng_key: jax.Array, scale: Scale) -> Judgement:
    """Run NUTS on a model with sites v and x, and judge its draws."""
    mcmc = MCMC(
        NUTS(model),
        num_warmup=scale.mcmc,
        num_samples=scale.mcmc,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
    )
    warmup_key, run_key = random.split(rng_key)
    _, warmup_seconds = _timed(lambda: mcmc.warmup(warmup_key))
    _, seconds = _timed(lambda: mcmc.run(run_key))
    draws = mcmc.get_samples(group_by_chain=True)
    posterior = {site: np.asarray(draws[site]) for site in ("v", "x")}
    stats = {"diverging": np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])}
    data, figures = judge(posterior, KNOWN_MARGINALS, PROBABILITIES, stats)
    return data, figures | {
        "seconds_to_train": warmup_seconds,
        "seconds_per_10000_draws": 10_000 * seconds / (NUM_CHAINS * scale.mcmc),
    }


def judge_exact(rng_key: jax.Array, scale: Scale) -> Judgement:
    """Judge exact draws of the target: they show how far chance alone moves the figures."""
    draw = jax.jit(Predictive(target, num_samples=scale.draws, parallel=True))
    draws, seconds = _timed(lambda: draw(rng_key))
    data, figures = judge(_in_chains(draws), KNOWN_MARGINALS, PROBABILITIES)
    return data, figures | {"seconds_per_10000_draws": 10_000 * seconds / scale.draws}


def _in_chains(draws: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Independent draws of v and x in the shape ``(chain, draw)`` of NUTS."""
    return {site: np.asarray(draws[site]).reshape(NUM_CHAINS, -1) for site in ("v", "x")}


def _timed(function: Callable) -> tuple[Any, float]:
    """The value of the second of two calls and its seconds: compilation is left out."""
    jax.block_until_ready(function())
    started = time.perf_counter()
    value = jax.block_until_ready(function())
    return value, time.perf_counter() - started


def _floats(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values._asdict().items()}
