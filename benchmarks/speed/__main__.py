"""What does a step cost, beside what a person would take instead?

Ratios of step times, measured alternately in one run: against NumPyro's RenyiELBO at the same mean
number of draws, against SUMO padded to its longest tail, and against a static number of draws that
compiles anew. Then how time follows the draws that were made, how memory follows the longest tail
that is possible, what stopping times of the data's own are worth, and how cost grows with dimension
and batch. Run it on a machine that does nothing else.
"""

from collections.abc import Callable
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.infer import ELBO, SVI, RenyiELBO

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.results import write_json, written_whole
from benchmarks.funnel import __main__ as funnel
from benchmarks.speed.models import (
    Program,
    compiled,
    funnel_sampler,
    linear,
    schools,
    vae,
)
from benchmarks.speed.report import draw_times, report
from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.losses.base import Draws
from numpyro_sumo.ragged import evaluate_log_weights
from numpyro_sumo.stopping_times import ReciprocalTail, StoppingTime

DEFAULT_OUT = Path(__file__).parents[1] / "results" / "speed"
BATCHES = (16, 64, 256)
KNEES = (20, 80, 320, 1_280)
DIMENSIONS = (2, 10, 100, 1_000)
BATCHES_OF_DIMENSIONS = (16, 128, 1_024)


class FixedSUMO(SUMO):
    """SUMO that evaluates as many draws for each datum as it is told to, whatever is drawn.

    :param num_tail: draws beyond the first m.
    :param times: stopping times of all data; None draws them.
    """

    def __init__(self, num_particles: int, num_tail: int, times: int | None = None):
        super().__init__(num_particles, data_axes=0)
        self.num_tail, self.times = num_tail, times

    def draw(self, rng_key, particle, num_data=1, given=None, fresh_only=()):
        """The stopping times, and the rows of so many draws."""
        if self.times is None:
            times = super().draw(rng_key, particle, num_data, given, fresh_only).stopping_times
        else:
            times = jnp.full(num_data, self.times)
        count = self.num_fresh + self.num_tail
        rows = evaluate_log_weights(
            particle,
            rng_key,
            jnp.full(num_data, count),
            max_count=count,
            num_head=count,
            chunk_size=1,
        )
        missing = self.num_particles + self.stopping_time.cap - count
        pad = lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
        return Draws(jax.tree.map(pad, rows), times, given or {})


class Lockstep(ELBO):
    """A loss for each datum on its own, under ``vmap``: all run until the longest tail ends."""

    def __init__(self, loss: ELBO):
        super().__init__()
        self.each = loss

    def loss(self, rng_key, param_map, model, guide, x):
        """The sum over the data."""
        of_datum = lambda key, x: self.each.loss(key, param_map, model, guide, x[None])
        return jnp.sum(jax.vmap(of_datum)(random.split(rng_key, len(x)), x))


class Given(StoppingTime):
    """The paper's stopping time, of which a given value is drawn."""

    def __init__(self, times: jax.Array):
        self.times, self.law = times, ReciprocalTail()

    @property
    def cap(self) -> int:
        return self.law.cap

    def log_survival(self, k):
        return self.law.log_survival(k)

    def sample(self, rng_key, shape=()):
        return jnp.broadcast_to(self.times, shape)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("speed", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--repeats",
        type=positive_integer,
        metavar="N",
        help="times that each case is timed, in turns (15; quick: 3)",
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, small sizes")
    options = parser.parse_args(arguments)
    if refused("speed", options.out):
        return 2
    repeats = options.repeats or (3 if options.quick else 15)
    started = time.perf_counter()
    results: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "load_before": os.getloadavg()[0],
        "repeats": repeats,
    }
    try:
        bar = tqdm(SECTIONS.items(), unit="section")
        for name, measure in bar:
            bar.set_postfix_str(name)
            results[name] = measure(repeats, options.quick)
    except KeyboardInterrupt:
        print("speed: interrupted; the report is on what is there", file=sys.stderr)
    results["seconds"] = time.perf_counter() - started
    with written_whole(options.out) as folder:
        write_json(folder / "speed.json", results)
        if "draws" in results:
            draw_times(folder / "draws.png", results["draws"])
        write_report(folder, report(results))
    print(f"Wrote {options.out / 'report.md'} after {results['seconds']:.0f} s.")
    return 0


def timed(cases: dict[str, tuple[Program, ELBO]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of a step of each case, all timed in turns; and what its compilation took."""
    ready = {
        name: compiled(program, loss, time.perf_counter) for name, (program, loss) in cases.items()
    }
    states = {name: case.state for name, case in ready.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in ready.items():
            started = time.perf_counter()
            states[name], _ = jax.block_until_ready(case.run(states[name]))
            # The first time warms up.
            if repeat:
                seconds[name].append((time.perf_counter() - started) / cases[name][0].steps)
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "all_seconds": seconds[name],
            "compile_seconds": case.seconds,
            "temporary_bytes": case.temporary_bytes,
        }
        for name, case in ready.items()
    }


def step_ratios(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Step times beside those of a baseline at the same mean number of draws."""
    renyi = lambda loss: RenyiELBO(num_particles=round(loss.mean_draws))
    below = lambda loss: ReverseKL(IWELBO(round(loss.marginal.mean_draws)))
    above = lambda loss: ReverseKL(IWHVI(round(loss.marginal.mean_draws)))
    on_data = [
        (IWELBO(9, gradient="standard"), renyi),
        (IWELBO(9), renyi),
        (SUMO(), renyi),
        (MultilevelSUMO(), renyi),
    ]
    of_a_batch = [
        (IWELBO(9, gradient="standard"), renyi),
        (IWELBO(9), renyi),
        (SUMO(data_axes=0), renyi),
        (MultilevelSUMO(data_axes=0), renyi),
    ]
    in_funnel = [
        (ReverseKL(SUMO(11)), below),
        (ReverseKL(MultilevelSUMO()), below),
        (funnel.ARMS["sumo"], above),
        (funnel.ARMS["multilevel"], above),
    ]
    rows = []
    for program, losses in (
        (vae(64), of_a_batch),
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
                    "ratio": _paired_ratio(of_loss, beside),
                    "milliseconds": 1e3 * of_loss["seconds"],
                    "compile_seconds": of_loss["compile_seconds"],
                    "compile_seconds_of_baseline": beside["compile_seconds"],
                }
            )
    return rows


def wasteful_ratios(repeats: int, quick: bool) -> dict[str, Any]:
    """SUMO beside two ways of not following the draws: padding, and compiling for every count."""
    program = vae(16 if quick else 64)
    loss = SUMO(data_axes=0)
    cap = loss.stopping_time.cap
    cases = {"ragged": (program, loss), "padded": (program, FixedSUMO(4, cap))}
    times = timed(cases, min(repeats, 5))
    num_steps = 5 if quick else 30
    drawn = np.asarray(loss.stopping_time.sample(random.key(0), (num_steps,)))
    one_step = program._replace(steps=1)
    started = time.perf_counter()
    programs: dict[int, Any] = {}
    for k in drawn.tolist():
        if k not in programs:
            programs[k] = compiled(one_step, FixedSUMO(4, k, times=k), time.perf_counter)
        jax.block_until_ready(programs[k].run(programs[k].state))
    static_seconds = time.perf_counter() - started
    ragged = times["ragged"]
    return {
        "program": program.title,
        "padded_ratio": _paired_ratio(times["padded"], ragged),
        "padded_temporary_ratio": times["padded"]["temporary_bytes"] / ragged["temporary_bytes"],
        "static_steps": num_steps,
        "static_compilations": len(programs),
        "static_seconds": static_seconds,
        "ragged_seconds": ragged["compile_seconds"] + num_steps * ragged["seconds"],
    }


def time_by_draws(repeats: int, quick: bool) -> dict[str, Any]:
    """The time of a step against the draws that it made, for stopping times as they come."""
    program = vae(16 if quick else 256)
    svi = SVI(program.model, program.guide, optax.sgd(0.0), IWELBO(1))
    params = svi.get_params(svi.init(random.key(0), *program.args))
    num_data = len(program.args[0])
    law = ReciprocalTail()

    @jax.jit
    def step(params, key, times):
        loss = SUMO(stopping_time=Given(times), data_axes=0)
        of_params = lambda p: loss.loss(key, p, program.model, program.guide, *program.args)
        return jax.value_and_grad(of_params)(params)

    drawn = [law.sample(random.key(seed), (num_data,)) for seed in range(5 if quick else 40)]
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
    """Temporary memory of a step against the longest tail that is possible."""
    program = vae(16 if quick else 64)
    rows = []
    for knee in KNEES:
        tail = ReciprocalTail(knee=knee, decay=0.0)
        chunk = 2 * len(program.args[0])
        loss = SUMO(stopping_time=tail, data_axes=0, chunk_size=chunk)
        case = compiled(program._replace(steps=1), loss, time.perf_counter)
        rows.append({"longest": tail.cap, "temporary_bytes": case.temporary_bytes})
    return rows


def value_of_own_times(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Variance times time of shared, lockstep and ragged stopping times."""
    tail = ReciprocalTail(knee=80, decay=0.0)
    ways: dict[str, ELBO] = {
        "shared": SUMO(stopping_time=tail),
        "lockstep": Lockstep(SUMO(stopping_time=tail)),
        "ragged": SUMO(stopping_time=tail, data_axes=0),
    }
    rows = []
    for batch_size in (16,) if quick else BATCHES:
        program = linear(20, batch_size)
        times = timed({way: (program, loss) for way, loss in ways.items()}, repeats)
        for way, loss in ways.items():
            values = _losses(program, loss, 200 if quick else 4_000)
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
    """Step times over dimension and batch, and the exponents of a fit to the larger ones."""
    rows = []
    for dimension in DIMENSIONS[:2] if quick else DIMENSIONS:
        for batch_size in BATCHES_OF_DIMENSIONS[:2] if quick else BATCHES_OF_DIMENSIONS:
            program = linear(dimension, batch_size)
            loss = SUMO(data_axes=0)
            (times,) = timed({"ragged": (program, loss)}, min(repeats, 5)).values()
            rows.append({"dimension": dimension, "batch": batch_size, "seconds": times["seconds"]})
    logs = np.log([[row["dimension"], row["batch"], row["seconds"]] for row in rows])
    # Small programs cost their overhead, whatever their size.
    large = logs[np.exp(logs[:, 0] + logs[:, 1]) >= (1 if quick else 5_000)]
    design = np.column_stack([large[:, :2], np.ones(len(large))])
    (of_dimension, of_batch, _), *_ = np.linalg.lstsq(design, large[:, 2], rcond=None)
    return {
        "rows": rows,
        "exponent_of_dimension": float(of_dimension),
        "exponent_of_batch": float(of_batch),
    }


def count_compilations(repeats: int, quick: bool) -> dict[str, int]:
    """Compilations of a step in a plain loop of many."""
    program, num_steps = schools(), 100 if quick else 10_000
    svi = SVI(program.model, program.guide, optax.adam(1e-3), SUMO())
    traced = []

    @jax.jit
    def update(state):
        traced.append(state)
        return svi.update(state)

    state = svi.init(random.key(0))
    for _ in range(num_steps):
        state, _ = update(state)
    return {"steps": num_steps, "compilations": len(traced)}


def _losses(program: Program, loss: ELBO, num_keys: int) -> np.ndarray:
    svi = SVI(program.model, program.guide, optax.sgd(0.0), loss)
    params = svi.get_params(svi.init(random.key(0), *program.args))
    at_key = lambda key: loss.loss(key, params, program.model, program.guide, *program.args)
    evaluate = jax.jit(lambda keys: lax.map(at_key, keys))
    return np.asarray(evaluate(random.split(random.key(1), num_keys)), np.float64)


def _paired_ratio(case: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Median of the ratios of what was timed one after the other."""
    ratios = np.divide(case["all_seconds"], baseline["all_seconds"])
    return float(np.median(ratios))


def _marginal(loss: Any) -> Any:
    """The loss that makes the draws."""
    return loss.marginal if isinstance(loss, ReverseKL) else loss


def _name(loss: Any) -> str:
    """A loss in a few words."""
    if isinstance(loss, ReverseKL):
        return f"ReverseKL({_name(loss.marginal)})"
    gradient = getattr(loss, "gradient", None)
    side = ", from above" if getattr(loss, "from_above", False) else ""
    kind = ", standard" if gradient == "standard" else ""
    return f"{type(loss).__name__}({loss.num_particles}{kind}{side})"


SECTIONS: dict[str, Callable[[int, bool], Any]] = {
    "steps": step_ratios,
    "wasteful": wasteful_ratios,
    "draws": time_by_draws,
    "memory": memory_by_tail,
    "sharing": value_of_own_times,
    "growth": growth_of_cost,
    "compilations": count_compilations,
}


if __name__ == "__main__":
    sys.exit(main())
