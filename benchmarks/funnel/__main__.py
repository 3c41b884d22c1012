"""Can a learned sampler be trusted where NUTS is stuck, and which loss does it take?

The target is a funnel, v ~ N(0, 1.35) and x ~ N(0, exp(v)). A hierarchical sampler is trained on it
by reverse KL, from one and the same start and at the same expected number of draws, with log q(x)
estimated without bias (SUMO, MultilevelSUMO), from above (IWHVI) and from below (IWELBO). Centred
and non-centred NUTS and exact draws stand beside it under ArviZ.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
import sys
import time
from typing import Any

from flax import linen as nn
import numpy as np
import optax
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, SVI, Predictive
from numpyro.infer.reparam import LocScaleReparam

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.judge import judge
from benchmarks.common.results import written_whole
from benchmarks.common.training import TrainingRun, train
from benchmarks.funnel import pictures
from benchmarks.funnel.report import report, write_results
from numpyro_sumo import (
    IWELBO,
    IWHVI,
    SUMO,
    HierarchicalGuide,
    KLSandwich,
    MultilevelSUMO,
    ReverseKL,
    kl_sandwich,
    log_marginal,
)
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

SCALE_OF_V = 1.35
NUM_AUXILIARY = 8
NUM_HIDDEN = 128
LEARNING_RATE = 3e-3
#: Adam's second moment forgets in 100 steps and not in 1,000, so that one rare large gradient does
#: not shrink the steps that follow for long.
SECOND_MOMENT_DECAY = 0.99
MAX_GRADIENT_NORM = 100.0
NUM_CHAINS = 4
PROBABILITIES = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
KNOWN_MARGINALS = {
    "v": (lambda draws: draws["v"], norm(scale=SCALE_OF_V).cdf),
    "x·exp(−v)": (lambda draws: draws["x"] * np.exp(-draws["v"]), norm.cdf),
}
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "funnel"


def target() -> None:
    """The funnel as a person would write it."""
    v = numpyro.sample("v", dist.Normal(0.0, SCALE_OF_V))
    numpyro.sample("x", dist.Normal(0.0, jnp.exp(v)))


class LocAndScale(nn.Module):
    """One hidden layer of tanh units giving mean and log-variance."""

    num_outputs: int

    @nn.compact
    def __call__(self, inputs):
        """Location and scale, each of shape ``(num_outputs,)``."""
        hidden = nn.tanh(nn.Dense(NUM_HIDDEN)(inputs))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        outputs = nn.Dense(2 * self.num_outputs, kernel_init=small)(hidden)
        loc, log_variance = jnp.split(outputs, 2, axis=-1)
        return loc, jnp.exp(0.5 * log_variance)


def sampler() -> None:
    """q(u) q(v, x | u)."""
    u = numpyro.sample(
        "u", dist.Normal().expand([NUM_AUXILIARY]).to_event(1), infer={"is_auxiliary": True}
    )
    network = flax_module("sampler", LocAndScale(2), input_shape=(NUM_AUXILIARY,))
    loc, scale = network(u)
    numpyro.sample("v", dist.Normal(loc[0], scale[0]))
    numpyro.sample("x", dist.Normal(loc[1], scale[1]))


def reverse(latents: dict[str, jax.Array]) -> None:
    """r(u | v, x)."""
    network = flax_module("reverse", LocAndScale(NUM_AUXILIARY), input_shape=(2,))
    loc, scale = network(jnp.stack([latents["v"], latents["x"]]))
    numpyro.sample("u", dist.Normal(loc, scale).to_event(1))


GUIDE = HierarchicalGuide(sampler, reverse)

#: The tail stops at its knee, so that no increment is multiplied by more than 80.
LIGHT_TAIL = ReciprocalTail(knee=80, decay=0.0)
#: Likewise: at most 8 blocks, and no increment multiplied by more than 10.5.
FEW_LEVELS = GeometricTail(0.69, max_level=3)

#: Every arm makes 16 draws of u for each x in expectation, except the one that shows few draws.
ARMS: dict[str, ReverseKL] = {
    "sumo": ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, from_above=True)),
    "multilevel": ReverseKL(MultilevelSUMO(6, stopping_time=FEW_LEVELS, from_above=True)),
    "iwhvi": ReverseKL(IWHVI(16)),
    "iwelbo": ReverseKL(IWELBO(16)),
    "iwelbo_standard": ReverseKL(IWELBO(16), gradient="standard"),
    "iwelbo_few": ReverseKL(IWELBO(4)),
}
TITLES = {
    "sumo": "SUMO",
    "multilevel": "multilevel SUMO",
    "iwhvi": "IWHVI",
    "iwelbo": "IWELBO",
    "iwelbo_standard": "IWELBO, standard gradient",
    "iwelbo_few": "IWELBO, 4 draws",
    "nuts_centred": "NUTS, centred",
    "nuts_noncentred": "NUTS, non-centred",
    "exact": "exact draws",
}


class Effort:
    """How much of everything: the default run, or the quick one."""

    def __init__(self, quick: bool):
        self.num_steps = 200 if quick else 20_000
        self.num_draws = 2_000 if quick else 20_000
        self.num_mcmc = 250 if quick else 1_000
        # draws of x, and of u for each
        self.sandwich = (500, 100) if quick else (20_000, 500)
        self.curve = self.sandwich if quick else (4_000, 200)
        # draws of u for each point of the contours
        self.contour_particles = 16 if quick else 128


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    options = parse(arguments)
    effort = Effort(options.quick)
    num_steps = effort.num_steps if options.steps is None else options.steps
    if refused("funnel", options.out):
        return 2
    started = time.perf_counter()
    key = random.key(options.seed)
    data: dict[str, Any] = {}
    results: dict[str, Any] = {
        "seed": options.seed,
        "steps": num_steps,
        "draws_per_step": ARMS["sumo"].num_particles,
        "scale_of_v": SCALE_OF_V,
        "samplers": {},
    }
    runs = {}
    # A stop by Ctrl-C ends the training there and then, and the report is on what is there.
    for name, loss in ARMS.items():
        runs[name] = train_arm(TITLES[name], loss, random.fold_in(key, 0), num_steps)
        if runs[name].interrupted:
            break
    for name, run in runs.items():
        data[name], results["samplers"][name] = judge_arm(name, run, random.fold_in(key, 1), effort)
    for name, model in {
        "nuts_centred": target,
        "nuts_noncentred": reparam(target, config={"x": LocScaleReparam(0.0)}),
    }.items():
        data[name], results["samplers"][name] = judge_nuts(model, random.fold_in(key, 2), effort)
    data["exact"], results["samplers"]["exact"] = judge_exact(random.fold_in(key, 3), effort)
    for name, verdict in results["samplers"].items():
        verdict["title"] = TITLES[name]
    results["seconds"] = time.perf_counter() - started
    with written_whole(options.out) as folder:
        write_results(folder, results, data)
        draw_pictures(folder, results, data, runs, key, effort)
        write_report(folder, report(results))
    print(f"Wrote {options.out / 'report.md'} after {time.perf_counter() - started:.0f} s.")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser("funnel", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--steps",
        type=positive_integer,
        metavar="N",
        help="training steps of each arm (20000; quick: 200)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    parser.add_argument(
        "--quick", action="store_true", help="the whole path in little time; its figures are rough"
    )
    return parser.parse_args(arguments)


def train_arm(
    title: str,
    loss: ReverseKL,
    rng_key: jax.Array,
    num_steps: int,
    *,
    second_moment_decay: float = SECOND_MOMENT_DECAY,
    max_gradient_norm: float = MAX_GRADIENT_NORM,
) -> TrainingRun:
    """Trains the sampler with one loss; same key, hence same start, for all of them."""
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
    """Draws of all sites from the sampler with these parameters."""
    return Predictive(GUIDE, params=params, num_samples=num_draws, parallel=True)(rng_key)


@partial(jax.jit, static_argnames=["num_samples", "num_particles"])
def sandwich(
    rng_key: jax.Array, params: dict[str, Any], num_samples: int, num_particles: int
) -> KLSandwich:
    """The KL divergence of the sampler with these parameters from the target, enclosed."""
    return kl_sandwich(
        rng_key, target, GUIDE, params, num_samples=num_samples, num_particles=num_particles
    )


def judge_arm(
    name: str, run: TrainingRun, rng_key: jax.Array, effort: Effort
) -> tuple[Any, dict[str, Any]]:
    """Draws from a trained sampler and judges them; adds its KL along the way."""
    draws, seconds = _timed(lambda: draw_learned(rng_key, run.params, effort.num_draws))
    posterior = {site: np.asarray(draws[site]).reshape(NUM_CHAINS, -1) for site in ("v", "x")}
    data, verdict = judge(posterior, KNOWN_MARGINALS, PROBABILITIES)
    kl = _floats(sandwich(rng_key, run.params, *effort.sandwich))
    kl_curve = [
        _floats(sandwich(rng_key, params, *effort.curve)) for params in run.snapshots.values()
    ]
    verdict |= {
        "loss": repr(ARMS[name]),
        "mean_draws": ARMS[name].marginal.mean_draws,
        "kl": kl,
        "steps": run.steps,
        "interrupted": run.interrupted,
        "seconds_to_train": run.seconds,
        "seconds_to_compile": run.compile_seconds,
        "steps_per_second": run.steps / max(run.seconds, 1e-9),
        "seconds_per_10000_draws": 10_000 * seconds / effort.num_draws,
        "curve": {
            "objective_steps": [run.block_size * (i + 1) for i in range(len(run.losses))],
            "objective": run.losses,
            "objective_se": run.loss_errors,
            "kl_steps": list(run.snapshots),
            "kl": kl_curve,
        },
    }
    return data, verdict


def judge_nuts(model: Callable, rng_key: jax.Array, effort: Effort) -> tuple[Any, dict[str, Any]]:
    """Runs NUTS on a model with latent (or recomputed) sites v and x, and judges it."""
    mcmc = MCMC(
        NUTS(model),
        num_warmup=effort.num_mcmc,
        num_samples=effort.num_mcmc,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
    )
    warmup_key, run_key = random.split(rng_key)
    _, warmup_seconds = _timed(lambda: mcmc.warmup(warmup_key))
    _, seconds = _timed(lambda: mcmc.run(run_key))
    draws = mcmc.get_samples(group_by_chain=True)
    posterior = {site: np.asarray(draws[site]) for site in ("v", "x")}
    stats = {"diverging": np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])}
    data, verdict = judge(posterior, KNOWN_MARGINALS, PROBABILITIES, stats)
    total = NUM_CHAINS * effort.num_mcmc
    verdict |= {
        "seconds_to_train": warmup_seconds,
        "seconds_per_10000_draws": 10_000 * seconds / total,
    }
    return data, verdict


def judge_exact(rng_key: jax.Array, effort: Effort) -> tuple[Any, dict[str, Any]]:
    """Ancestral draws of the target: the yardstick of what chance alone does."""
    draw = jax.jit(Predictive(target, num_samples=effort.num_draws, parallel=True))
    draws, seconds = _timed(lambda: draw(rng_key))
    posterior = {site: np.asarray(draws[site]).reshape(NUM_CHAINS, -1) for site in ("v", "x")}
    data, verdict = judge(posterior, KNOWN_MARGINALS, PROBABILITIES)
    return data, verdict | {"seconds_per_10000_draws": 10_000 * seconds / effort.num_draws}


def draw_pictures(
    folder: Path,
    results: dict[str, Any],
    data: dict[str, Any],
    runs: dict[str, TrainingRun],
    rng_key: jax.Array,
    effort: Effort,
) -> None:
    """All pictures, into ``folder``."""
    points = jax.tree.map(jnp.asarray, pictures.grid()[2])

    @jax.jit
    def log_q(params):
        num_particles = effort.contour_particles
        return log_marginal(rng_key, GUIDE, params, points, num_particles=num_particles)

    for name, run in runs.items():
        panels = []
        for step, params in every_fifth(run.snapshots).items():
            draws = draw_learned(rng_key, params, effort.num_draws)
            some = {site: draws[site][:1_500] for site in ("v", "x")}
            panels.append((f"step {step}", np.asarray(log_q(params)), some))
        file = folder / f"contours_{name}.png"
        pictures.draw_contours(file, TITLES[name], pictures.COLOURS[name], log_target, panels)
    verdicts = {name: results["samplers"][name] for name in runs}
    pictures.draw_training(folder / "training.png", verdicts)
    posteriors = {
        name: {site: draws.posterior[site].values for site in ("v", "x")}
        for name, draws in data.items()
    }
    shown = [
        "nuts_centred",
        *(name for name in ("sumo", "multilevel", "iwhvi") if name in runs),
        "exact",
    ]
    pictures.draw_pairs(
        folder / "pairs.png",
        [
            (name, TITLES[name], {site: v.ravel()[:4_000] for site, v in posteriors[name].items()})
            for name in shown
        ],
        {"nuts_centred": data["nuts_centred"].sample_stats["diverging"].values},
    )
    of_v = {name: posterior["v"].ravel() for name, posterior in posteriors.items()}
    pictures.draw_quantiles(folder / "quantiles.png", SCALE_OF_V, of_v, TITLES)


def log_target(points: dict[str, np.ndarray]) -> np.ndarray:
    """The target's log-density at points given by site, in nats."""
    x, v = points["x"], points["v"]
    return norm.logpdf(v, scale=SCALE_OF_V) + norm.logpdf(x, scale=np.exp(v))


def every_fifth(snapshots: dict[int, Any]) -> dict[int, Any]:
    """The snapshots nearest to 0 %, 20 % … 100 % of the training."""
    steps = np.array(list(snapshots))
    wanted = steps[-1] * np.linspace(0, 1, 6)
    return {int(s): snapshots[int(s)] for s in steps[np.abs(steps[:, None] - wanted).argmin(0)]}


def _timed(function: Callable) -> tuple[Any, float]:
    """Value and seconds of the second of two calls: compilation is left out."""
    jax.block_until_ready(function())
    started = time.perf_counter()
    value = jax.block_until_ready(function())
    return value, time.perf_counter() - started


def _floats(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values._asdict().items()}


if __name__ == "__main__":
    sys.exit(main())
