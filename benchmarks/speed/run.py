"""Measure time, compilation and memory of training steps; one function for each section."""

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import optax

import jax
from jax import random

from numpyro.infer import ELBO, SVI, RenyiELBO

from benchmarks.funnel.models import ARMS
from benchmarks.speed.losses import FixedSUMO, FixedTime, Lockstep
from benchmarks.speed.models import (
    autoencoder,
    compile_steps,
    funnel_sampler,
    linear,
    schools,
)
from benchmarks.speed.timing import losses_at_keys, paired_ratio, timed
from benchmarks.speed.whole_plate import value_of_whole_plates
from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import ReciprocalTail

BATCHES = (16, 64, 256)
KNEES = (20, 80, 320, 1_280)
DIMENSIONS = (2, 10, 100, 1_000)
BATCHES_OF_DIMENSIONS = (16, 128, 1_024)


def step_ratios(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Ratios of step times to a baseline with the same mean number of draws."""
    renyi = lambda loss: RenyiELBO(num_particles=round(loss.mean_draws))
    below = lambda loss: ReverseKL(IWELBO(round(loss.marginal.mean_draws)))
    above = lambda loss: ReverseKL(IWHVI(round(loss.marginal.mean_draws)))
    on_data = [
        (IWELBO(9, gradient="standard"), renyi),
        (IWELBO(9), renyi),
        (SUMO(), renyi),
        (MultilevelSUMO(), renyi),
    ]
    in_funnel = [
        (ReverseKL(SUMO(11)), below),
        (ReverseKL(MultilevelSUMO()), below),
        (ARMS["sumo"], above),
        (ARMS["multilevel"], above),
    ]
    rows = []
    for program, losses in (
        (autoencoder(64), [*on_data, (SUMO(share_stopping_times=True), renyi)]),
        (schools(), on_data),
        (funnel_sampler(), in_funnel),
    ):
        cases = {}
        for loss, baseline in losses:
            beside = baseline(loss)
            cases[_name(loss)] = (program, loss)
            cases[_name(beside)] = (program, beside)
        times = timed(cases, repeats)
        for loss, baseline in losses:
            of_loss, beside = times[_name(loss)], times[_name(baseline(loss))]
            rows.append(
                {
                    "program": program.title,
                    "loss": _name(loss),
                    "mean_draws": _marginal(loss).mean_draws,
                    "baseline": _name(baseline(loss)),
                    "ratio": paired_ratio(of_loss, beside),
                    "milliseconds": 1e3 * of_loss["seconds"],
                    "compile_seconds": of_loss["compile_seconds"],
                    "compile_seconds_of_baseline": beside["compile_seconds"],
                }
            )
    return rows


def wasteful_ratios(repeats: int, quick: bool) -> dict[str, Any]:
    """SUMO compared with padding all tails, and with compiling for each number of draws."""
    program = autoencoder(16 if quick else 64)
    loss = SUMO()
    cap = loss.stopping_time.cap
    cases = {"ragged": (program, loss), "padded": (program, FixedSUMO(4, num_tail=cap))}
    times = timed(cases, min(repeats, 5))
    num_steps = 5 if quick else 30
    drawn = np.asarray(loss.stopping_time.sample(random.key(0), (num_steps,)))
    one_step = program._replace(steps=1)
    started = time.perf_counter()
    programs: dict[int, Any] = {}
    for k in drawn.tolist():
        if k not in programs:
            programs[k] = compile_steps(one_step, FixedSUMO(4, num_tail=k, times=k))
        jax.block_until_ready(programs[k].run(programs[k].state))
    static_seconds = time.perf_counter() - started
    ragged = times["ragged"]
    return {
        "program": program.title,
        "padded_ratio": paired_ratio(times["padded"], ragged),
        "padded_temporary_ratio": times["padded"]["temporary_bytes"] / ragged["temporary_bytes"],
        "static_steps": num_steps,
        "static_compilations": len(programs),
        "static_seconds": static_seconds,
        "ragged_seconds": ragged["compile_seconds"] + num_steps * ragged["seconds"],
    }


def time_by_draws(repeats: int, quick: bool) -> dict[str, Any]:
    """The time of a step against its number of draws, for random stopping times."""
    program = autoencoder(16 if quick else 256)
    svi = SVI(program.model, program.guide, optax.sgd(0.0), IWELBO(1))
    params = svi.get_params(svi.init(random.key(0), *program.args))
    num_data = len(program.args[0])
    stopping_time = ReciprocalTail()

    @jax.jit
    def step(params, key, times):
        loss = SUMO(stopping_time=FixedTime(times))
        of_params = lambda p: loss.loss(key, p, program.model, program.guide, *program.args)
        return jax.value_and_grad(of_params)(params)

    drawn = [
        stopping_time.sample(random.key(seed), (num_data,)) for seed in range(5 if quick else 40)
    ]
    jax.block_until_ready(step(params, random.key(0), drawn[0]))
    seconds = np.empty((repeats, len(drawn)))
    for repeat in range(repeats):
        for index, times in enumerate(drawn):
            started = time.perf_counter()
            jax.block_until_ready(step(params, random.key(0), times))
            seconds[repeat, index] = time.perf_counter() - started
    draws = np.array([num_data * SUMO().num_particles + int(times.sum()) for times in drawn])
    medians = np.median(seconds, axis=0)
    per_draw = medians / draws
    slope, intercept = np.polyfit(draws, medians, 1)
    return {
        "program": program.title,
        "draws": draws.tolist(),
        "seconds": medians.tolist(),
        "microseconds_per_draw": 1e6 * float(np.median(per_draw)),
        "largest_deviation": float(np.max(np.abs(per_draw / np.median(per_draw) - 1.0))),
        "slope": float(slope),
        "intercept": float(intercept),
        "draws_per_second": float(np.median(draws / medians)),
    }


def memory_by_tail(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Temporary memory of a step against the longest possible tail."""
    program = autoencoder(16 if quick else 64)
    rows = []
    for knee in KNEES:
        tail = ReciprocalTail(knee=knee, decay=0.0)
        chunk = 2 * len(program.args[0])
        loss = SUMO(stopping_time=tail, chunk_size=chunk)
        case = compile_steps(program._replace(steps=1), loss)
        rows.append({"longest": tail.cap, "temporary_bytes": case.temporary_bytes})
    return rows


def value_of_own_times(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Variance times time, with one stopping time for all data or one for each."""
    tail = ReciprocalTail(knee=80, decay=0.0)
    ways: dict[str, ELBO] = {
        "shared": SUMO(stopping_time=tail, share_stopping_times=True),
        "lockstep": Lockstep(SUMO(stopping_time=tail)),
        "ragged": SUMO(stopping_time=tail),
    }
    rows = []
    for batch_size in (16,) if quick else BATCHES:
        program = linear(20, batch_size)
        times = timed({way: (program, loss) for way, loss in ways.items()}, repeats)
        for way, loss in ways.items():
            values = losses_at_keys(program, loss, 200 if quick else 4_000)
            rows.append(
                {
                    "batch": batch_size,
                    "way": way,
                    "milliseconds": 1e3 * times[way]["seconds"],
                    "variance": float(np.var(values, ddof=1)),
                    "variance_times_seconds": float(np.var(values, ddof=1)) * times[way]["seconds"],
                }
            )
    return rows


def growth_of_cost(repeats: int, quick: bool) -> dict[str, Any]:
    """Step times over dimension and batch, and the exponents of a power law fitted to them."""
    rows = []
    for dimension in DIMENSIONS[:2] if quick else DIMENSIONS:
        for batch_size in BATCHES_OF_DIMENSIONS[:2] if quick else BATCHES_OF_DIMENSIONS:
            program = linear(dimension, batch_size)
            loss = SUMO()
            (times,) = timed({"ragged": (program, loss)}, min(repeats, 5)).values()
            rows.append({"dimension": dimension, "batch": batch_size, "seconds": times["seconds"]})
    logs = np.log([[row["dimension"], row["batch"], row["seconds"]] for row in rows])
    # The time of small programs is overhead, whatever their size.
    large = logs[np.exp(logs[:, 0] + logs[:, 1]) >= (1 if quick else 5_000)]
    design = np.column_stack([large[:, :2], np.ones(len(large))])
    (of_dimension, of_batch, _), *_ = np.linalg.lstsq(design, large[:, 2], rcond=None)
    return {
        "rows": rows,
        "exponent_of_dimension": float(of_dimension),
        "exponent_of_batch": float(of_batch),
    }


def count_compilations(repeats: int, quick: bool) -> dict[str, int]:
    """The number of compilations in a Python loop of many steps."""
    program, num_steps = schools(), 100 if quick else 10_000
    svi = SVI(program.model, program.guide, optax.adam(1e-3), SUMO())
    traced = []

    @jax.jit
    def update(state):
        traced.append(state)
        return svi.update(state, *program.args)

    state = svi.init(random.key(0), *program.args)
    for _ in range(num_steps):
        state, _ = update(state)
    return {"steps": num_steps, "compilations": len(traced)}


def _marginal(loss: Any) -> Any:
    """The loss whose draws are counted."""
    return loss.marginal if isinstance(loss, ReverseKL) else loss


def _name(loss: Any) -> str:
    """A short name of a loss."""
    if isinstance(loss, ReverseKL):
        return f"ReverseKL({_name(loss.marginal)})"
    gradient = getattr(loss, "gradient", None)
    side = ", from above" if getattr(loss, "from_above", False) else ""
    kind = ", standard" if gradient == "standard" else ""
    shared = ", one stopping time" if getattr(loss, "share_stopping_times", False) else ""
    return f"{type(loss).__name__}({loss.num_particles}{kind}{side}{shared})"


SECTIONS: dict[str, Callable[[int, bool], Any]] = {
    "steps": step_ratios,
    "wasteful": wasteful_ratios,
    "draws": time_by_draws,
    "memory": memory_by_tail,
    "sharing": value_of_own_times,
    "whole_plate": value_of_whole_plates,
    "growth": growth_of_cost,
    "compilations": count_compilations,
}
