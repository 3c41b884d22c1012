"""The posterior benchmark, model by model: samplers are trained, drawn from and judged."""

from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random

from benchmarks.common.fast_compile import in_haste
from benchmarks.common.judge import draws_to_pay, judge_against, worst
from benchmarks.common.results import resumed, write_json, written_whole
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.training import TrainingRun
from benchmarks.common.workers import side_by_side
from benchmarks.posterior.models import PROBLEMS, Problem, log_joint, volatility
from benchmarks.posterior.pictures import LABELS, draw_pictures
from benchmarks.posterior.reference import Reference, reference_of
from benchmarks.posterior.samplers import Learned, Samples, draw_nuts, new_guide, train_learned

TAILS = (0.005, 0.025, 0.975, 0.995)
PROBABILITIES = (0.005, 0.025, 0.5, 0.975, 0.995)


class Scale(NamedTuple):
    """How much of everything.

    :param steps: of training at the most; None are as many as the problem says.
    :param draws: raw ones, and exact ones.
    :param certificate: draws of x, and of u for each.
    :param metropolis: draws of each chain; ``nuts`` likewise, after those of ``warmup``.
    :param ess_bar: of the reference; None is a short run that is not held to any.
    :param days: of the series of returns.
    :param hasty: whether to spare compilation, which makes all that is compiled slower.
    """

    steps: int | None
    draws: int
    certificate: tuple[int, int]
    metropolis: int
    warmup: int
    nuts: int
    ess_bar: float | None
    days: int
    hasty: bool


DEFAULT = Scale(None, 20_000, (10_000, 64), 20_000, 1_000, 2_000, 10_000.0, 500, False)
QUICK = Scale(50, 2_000, (200, 16), 200, 100, 100, None, 50, True)


def problem_of(name: str, scale: Scale) -> Problem:
    """The problem of that name; in haste no kernel is compiled for the sake of few draws."""
    problem = volatility(scale.days) if name == "volatility" else PROBLEMS[name]()
    alternated = problem.effort.alternated and not scale.hasty
    return problem._replace(effort=problem.effort._replace(alternated=alternated))


def begun(scale: Scale, seed: int, folder: Path) -> dict[str, Any]:
    """The results of an earlier run of that scale and seed, or ones without any problem yet.

    :raises ValueError: in one line, for results that are not whole.
    """
    configuration = {"seed": seed, "scale": scale._asdict()}
    fresh = {"configuration": configuration, "seconds": 0.0, "problems": {}}
    return resumed(folder / "posterior.json", fresh, "configuration")


def run_all(
    results: dict[str, Any],
    names: list[str],
    scale: Scale,
    seed: int,
    folder: Path,
    num_workers: int = 1,
) -> None:
    """Judges the samplers of problems that the results lack yet, and keeps these up to date.

    Ctrl-C ends it early; what is done by then stays.

    :param results: as they are :func:`begun`.
    :param names: of the problems.
    :param folder: where ``posterior.json`` is written after each, its pictures, and references.
    :param num_workers: how many problems are worked on side by side.
    """
    spent, started = results["seconds"], time.perf_counter()
    done = results["problems"]
    missing = [
        name
        for name in names
        if name not in done or done[name]["told"] != told_of(problem_of(name, scale))
    ]
    if num_workers > 1:  # the largest first, so that none is waited for at the end
        missing.sort(key=lambda name: -problem_of(name, scale).dimension())
    try:
        with (
            in_haste() if scale.hasty else nullcontext(),
            closing(
                side_by_side(_runner, (scale, seed, folder), missing, str, num_workers)
            ) as ended,
            tqdm(total=len(names), initial=len(names) - len(missing), unit="model") as bar,
        ):
            for name, verdict in ended:
                done[name] = verdict
                results["problems"] = {each: done[each] for each in PROBLEMS if each in done}
                results["seconds"] = spent + time.perf_counter() - started
                with written_whole(folder) as partial:
                    write_json(partial / "posterior.json", results)
                bar.set_postfix_str(name, refresh=False)
                bar.update()
    except KeyboardInterrupt:
        print("Interrupted; the report is on what is there.", file=sys.stderr)


def _runner(scale: Scale, seed: int, folder: Path) -> Callable[[str], dict[str, Any]]:
    """What judges the samplers of a problem by its name, and draws its pictures into ``folder``."""

    def run(name: str) -> dict[str, Any]:
        problem, started = problem_of(name, scale), time.perf_counter()
        with written_whole(folder) as partial:
            verdict = run_problem(problem, scale, random.key(seed), folder, partial)
        return verdict | {"told": told_of(problem), "seconds": time.perf_counter() - started}

    return run


def told_of(problem: Problem) -> dict[str, Any]:
    """What the outcome depends on besides the scale, in plain values."""
    effort = problem.effort
    told = {
        "title": problem.title,
        "dimension": problem.dimension(),
        "log_joint": log_joint(problem.model, problem.args),
        "log_evidence": problem.log_evidence,
        "steps": effort.steps,
        "learning_rate": effort.learning_rate,
        "max_gradient_norm": effort.max_gradient_norm,
        "second_moment_decay": effort.second_moment_decay,
        "inverse_temperature": effort.inverse_temperature,
        "particles": list(effort.particles),
        "guide": {key: repr(value) for key, value in effort.guide.items()},
    }
    return told | ({"alternated": True} if effort.alternated else {})


def run_problem(
    problem: Problem, scale: Scale, rng_key: jax.Array, folder: Path, pictures: Path
) -> dict[str, Any]:
    """Trains, draws and judges all samplers of a problem; draws its pictures.

    :param folder: where references are kept.
    :param pictures: the folder for pictures.
    """
    reference = reference_of(problem, scale.draws, scale.ess_bar, folder)
    train_key, raw_key, certificate_key, metropolis_key, nuts_key = random.split(rng_key, 5)
    guide = new_guide(problem)
    run, watch = train_learned(problem, guide, train_key, scale.steps)
    if run.interrupted:
        raise KeyboardInterrupt
    samples: dict[str, Samples] = {}
    verdict: dict[str, Any] = {"training": _training_told(run, watch)}
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params)):
        learned = Learned(problem, guide, run.params, watch.seconds)
        samples["raw"] = learned.raw(raw_key, scale.draws)
        try:
            verdict["certificate"], samples["resampled"] = learned.resampled(
                certificate_key, *scale.certificate
            )
            verdict["acceptance"], samples["metropolis"] = learned.metropolis(
                metropolis_key, scale.warmup, scale.metropolis, by_step=scale.hasty
            )
        except ValueError as error:  # weights that are not finite: the report says so
            verdict["refused"] = str(error)
    samples["nuts"] = draw_nuts(problem, nuts_key, scale.warmup, scale.nuts, by_step=scale.hasty)
    samples["reference"] = Samples(reference.draws, reference.told["seconds"])
    verdict["reference"] = reference.told | {"quantities": _laws_told(problem, reference)}
    verdict["samplers"] = {
        name: {"title": LABELS[name]} | judge_samples(problem, reference, each)
        for name, each in samples.items()
        if name != "reference"
    }
    if problem.laws is not None:
        chance = judge_samples(problem, reference, samples["reference"])
        verdict["samplers"]["exact"] = {"title": "exact draws"} | chance
    verdict["pays_from"] = _pays_from(verdict["samplers"])
    draw_pictures(pictures, problem, reference, samples)
    return verdict


def judge_samples(problem: Problem, reference: Reference, samples: Samples) -> dict[str, Any]:
    """The worst figures of all quantities, and all figures of the telling ones."""
    stats = None if samples.diverging is None else {"diverging": samples.diverging}
    draws, laws = samples.draws, reference.laws
    _, full = judge_against(draws, laws, PROBABILITIES, TAILS, stats)
    summary = full["summary"]
    r_hat = worst({name: line["r_hat"] for name, line in summary.items()})
    least = worst({name: line["ess_bulk"] for name, line in summary.items()}, least=True)
    ess = least["value"] if samples.ess is None else samples.ess
    verdict = {
        "draws": full["draws"],
        "r_hat": r_hat,
        "ess": ess,
        "ess_bulk": least,
        "ks": worst(full["ks"]),
        **{f"{kind}_error": worst(of_kind) for kind, of_kind in full["errors"].items()},
        "seconds": samples.seconds,
        "seconds_to_train": samples.seconds_to_train,
        "ess_per_second": ess / samples.seconds,
        "telling": {
            name: summary[name] | {"quantiles": full["quantiles"][name], "ks": full["ks"][name]}
            for name in problem.telling
        },
    }
    if samples.seconds_to_train is not None:
        whole = samples.seconds + samples.seconds_to_train
        verdict["ess_per_second_trained"] = ess / whole
    return verdict | ({"divergences": full["divergences"]} if "divergences" in full else {})


def _laws_told(problem: Problem, reference: Reference) -> dict[str, Any]:
    """Of the telling quantities."""
    laws = {name: reference.laws[name] for name in problem.telling}
    return {
        name: {
            "mean": float(law.mean()),
            "sd": float(law.std()),
            "quantiles": {str(p): float(law.ppf(p)) for p in PROBABILITIES},
        }
        for name, law in laws.items()
    }


def _training_told(run: TrainingRun, watch: Stopwatch) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "seconds": watch.seconds,
        "seconds_to_compile": watch.compile_seconds,
        "steps_per_second": run.steps / max(run.seconds, 1e-9),
        "objective_steps": [run.block_size * (i + 1) for i in range(len(run.losses))],
        "objective": run.losses,
        "objective_se": run.loss_errors,
    }


def _pays_from(samplers: dict[str, Any]) -> float | None:
    """Effective draws from which the training has paid for itself; None without a comparison."""
    if "metropolis" not in samplers:
        return None
    prices = [
        samplers[name][key]
        for name in ("metropolis", "nuts")
        for key in ("seconds_to_train", "ess_per_second")
    ]
    return draws_to_pay(*prices)
