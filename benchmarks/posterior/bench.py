"""Train, draw and judge all samplers of the posterior benchmark, problem by problem."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
import time
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random

from benchmarks.common.cli import add_finished
from benchmarks.common.fast_compile import hasty_compilation
from benchmarks.common.judge import break_even_ess, judge_against, worst
from benchmarks.common.results import start_or_resume, written_whole
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.training import TrainingRun
from benchmarks.common.workers import run_parallel
from benchmarks.posterior.models import PROBLEMS, volatility
from benchmarks.posterior.pictures import draw_pictures
from benchmarks.posterior.problems import Problem
from benchmarks.posterior.reference import Reference, reference_of
from benchmarks.posterior.samplers import (
    TITLES,
    Learned,
    Samples,
    draw_nuts,
    new_guide,
    train_learned,
)

TAILS = (0.005, 0.025, 0.975, 0.995)
PROBABILITIES = (0.005, 0.025, 0.5, 0.975, 0.995)


class Scale(NamedTuple):
    """The size of each part of the benchmark.

    :param steps: the most training steps; None means those of the problem's effort.
    :param draws: raw draws of the guide, and exact draws.
    :param certificate: draws of x, and of u for each.
    :param metropolis: draws of each chain.
    :param warmup: warm-up draws of each chain of NUTS; ``nuts`` draws follow.
    :param min_ess: of the reference; None makes a short reference of any ESS.
    :param days: length of the series of returns.
    :param hasty: whether to compile quickly, and run slowly.
    """

    steps: int | None
    draws: int
    certificate: tuple[int, int]
    metropolis: int
    warmup: int
    nuts: int
    min_ess: float | None
    days: int
    hasty: bool


DEFAULT = Scale(None, 20_000, (10_000, 64), 20_000, 1_000, 2_000, 10_000.0, 500, False)
QUICK = Scale(50, 2_000, (200, 16), 200, 100, 100, None, 50, True)


def problem_of(name: str, scale: Scale) -> Problem:
    """The problem of that name; a hasty one does not compile NUTS for a few alternated steps."""
    problem = volatility(scale.days) if name == "volatility" else PROBLEMS[name]()
    alternated = problem.effort.alternated and not scale.hasty
    return problem._replace(effort=problem.effort._replace(alternated=alternated))


def new_results(scale: Scale, seed: int, folder: Path) -> dict[str, Any]:
    """The results of an earlier run of this scale and seed, or results without problems.

    :raises InputError: if the file of results is incomplete.
    """
    configuration = {"seed": seed, "scale": scale._asdict()}
    fresh = {"configuration": configuration, "seconds": 0.0, "problems": {}}
    return start_or_resume(folder / "posterior.json", fresh, "configuration")


def run_all(
    results: dict[str, Any],
    names: list[str],
    scale: Scale,
    seed: int,
    folder: Path,
    num_workers: int = 1,
) -> None:
    """Judge the samplers of problems that are missing in ``results``, and add them there.

    :param results: from :func:`new_results`.
    :param names: of the problems.
    :param folder: for ``posterior.json``, written after each problem, pictures, and references.
    :param num_workers: how many problems run in parallel.
    """
    done = results["problems"]
    configs = {name: problem_of(name, scale).config() for name in names}
    missing = [name for name in names if name not in done or done[name]["config"] != configs[name]]
    if num_workers > 1:  # the largest first, so that none is left running alone at the end
        missing.sort(key=lambda name: -configs[name]["dimension"])
    finished = run_parallel(_make_runner, (scale, seed, folder), missing, str, num_workers)
    bar = tqdm(total=len(names), initial=len(names) - len(missing), unit="model")

    def add(name: str, outcome: dict[str, Any]) -> None:
        done[name] = outcome
        results["problems"] = {each: done[each] for each in PROBLEMS if each in done}

    with hasty_compilation() if scale.hasty else nullcontext():
        add_finished(folder / "posterior.json", results, finished, add, bar)


def _make_runner(scale: Scale, seed: int, folder: Path) -> Callable[[str], dict[str, Any]]:
    """The function that judges the samplers of a problem by its name, and draws its pictures."""

    def run(name: str) -> dict[str, Any]:
        problem, started = problem_of(name, scale), time.perf_counter()
        with written_whole(folder) as partial:
            outcome = run_problem(problem, scale, random.key(seed), folder, partial)
        return outcome | {"config": problem.config(), "seconds": time.perf_counter() - started}

    return run


def run_problem(
    problem: Problem, scale: Scale, rng_key: jax.Array, folder: Path, pictures: Path
) -> dict[str, Any]:
    """Train, draw from and judge all samplers of a problem, and draw its pictures.

    :param folder: for saved references.
    :param pictures: for pictures.
    """
    reference = reference_of(problem, scale.draws, scale.min_ess, folder)
    *learned_keys, nuts_key = random.split(rng_key, 5)
    outcome, samples = _learned_samples(problem, scale, learned_keys)
    samples["nuts"] = draw_nuts(problem, nuts_key, scale.warmup, scale.nuts, by_step=scale.hasty)
    outcome["reference"] = reference.info | {"quantities": _shown_quantities(problem, reference)}
    samplers = outcome["samplers"] = {
        name: {"title": TITLES[name]} | judge_samples(problem, reference, each)
        for name, each in samples.items()
    }
    samples["reference"] = Samples(reference.draws, reference.info["seconds"])
    if problem.exact is not None:
        by_chance = judge_samples(problem, reference, samples["reference"])
        samplers["exact"] = {"title": "exact draws"} | by_chance
    outcome["break_even_ess"] = _break_even_ess(samplers)
    draw_pictures(pictures, problem, reference, samples)
    return outcome


def _learned_samples(
    problem: Problem, scale: Scale, rng_keys: list[jax.Array]
) -> tuple[dict[str, Any], dict[str, Samples]]:
    """Train the guide; its figures, and its draws: raw, resampled, and by Metropolis."""
    train_key, raw_key, certificate_key, metropolis_key = rng_keys
    guide = new_guide(problem)
    run, watch = train_learned(problem, guide, train_key, scale.steps)
    if run.interrupted:
        raise KeyboardInterrupt
    outcome: dict[str, Any] = {"training": _training_figures(run, watch)}
    samples: dict[str, Samples] = {}
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params)):
        return outcome, samples
    learned = Learned(problem, guide, run.params, watch.seconds)
    samples["raw"] = learned.raw(raw_key, scale.draws)
    try:
        outcome["certificate"], samples["resampled"] = learned.resampled(
            certificate_key, *scale.certificate
        )
        outcome["acceptance"], samples["metropolis"] = learned.metropolis(
            metropolis_key, scale.warmup, scale.metropolis, by_step=scale.hasty
        )
    except ValueError as error:  # weights that are not finite: the report shows the message
        outcome["refused"] = str(error)
    return outcome, samples


def judge_samples(problem: Problem, reference: Reference, samples: Samples) -> dict[str, Any]:
    """The worst figures over all quantities, and all figures of the shown ones."""
    stats = None if samples.diverging is None else {"diverging": samples.diverging}
    _, full = judge_against(samples.draws, reference.exact, PROBABILITIES, TAILS, stats)
    summary = full["summary"]
    least = worst({name: line["ess_bulk"] for name, line in summary.items()}, least=True)
    ess = least["value"] if samples.ess is None else samples.ess
    figures = {
        "draws": full["draws"],
        "r_hat": worst({name: line["r_hat"] for name, line in summary.items()}),
        "ess": ess,
        "ess_bulk": least,
        "ks": worst(full["ks"]),
        **{f"{kind}_error": worst(of_kind) for kind, of_kind in full["errors"].items()},
        "seconds": samples.seconds,
        "seconds_to_train": samples.seconds_to_train,
        "ess_per_second": ess / samples.seconds,
        "shown": {
            name: summary[name] | {"quantiles": full["quantiles"][name], "ks": full["ks"][name]}
            for name in problem.shown
        },
    }
    if samples.seconds_to_train is not None:
        total = samples.seconds + samples.seconds_to_train
        figures["ess_per_second_trained"] = ess / total
    return figures | ({"divergences": full["divergences"]} if "divergences" in full else {})


def _shown_quantities(problem: Problem, reference: Reference) -> dict[str, Any]:
    """Moments and quantiles of the shown quantities under the reference."""
    return {
        name: {
            "mean": float(reference.exact[name].mean()),
            "sd": float(reference.exact[name].std()),
            "quantiles": {str(p): float(reference.exact[name].ppf(p)) for p in PROBABILITIES},
        }
        for name in problem.shown
    }


def _training_figures(run: TrainingRun, watch: Stopwatch) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "seconds": watch.seconds,
        "seconds_to_compile": watch.compile_seconds,
        "steps_per_second": run.steps / max(run.seconds, 1e-9),
        "objective_steps": [run.block_size * (i + 1) for i in range(len(run.losses))],
        "objective": run.losses,
        "objective_se": run.loss_errors,
    }


def _break_even_ess(samplers: dict[str, Any]) -> float | None:
    """The ESS at which Metropolis and NUTS have taken the same total time; None without both."""
    if "metropolis" not in samplers:
        return None
    costs = [
        samplers[name][key]
        for name in ("metropolis", "nuts")
        for key in ("seconds_to_train", "ess_per_second")
    ]
    return break_even_ess(*costs)
