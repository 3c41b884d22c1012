"""Is what ``certify`` says of a guide true, for guides of all kinds, good and bad?

Eight kinds of guides are trained on six models whose log-evidence and posterior moments are exact.
Then guides are spoilt on purpose, around the posteriors of ten models, to see which of them still
count as good. At last, leave-one-out cross-validation by guides is compared with that by NUTS, NUTS
that starts from a guide with plain NUTS, and means of chains that propose from a guide with exact
ones. An interrupted run is continued by the same command; under another major version of ArviZ it
adds the cross-validation by that one.
"""

import argparse
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

from tqdm import tqdm

import jax
from jax import random

from benchmarks.common.cli import Command, add_finished
from benchmarks.common.fast_compile import hasty_compilation
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import start_or_resume
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.guides import chain_means, cross_validation, warm_starts
from benchmarks.guides.chain_means import compare_means, mean_jobs
from benchmarks.guides.cross_validation import LOO_PARTS, compare_loo, loo_jobs
from benchmarks.guides.guides import KINDS, train
from benchmarks.guides.measure import compiled_once, measure
from benchmarks.guides.models import models
from benchmarks.guides.pictures import draw_evidence
from benchmarks.guides.report import report
from benchmarks.guides.simple import simple_targets
from benchmarks.guides.spoilt import changes_of, spoil
from benchmarks.guides.studies import key_of
from benchmarks.guides.warm_starts import start_jobs, time_starts

#: Models, kinds of guides and spoilt models of a quick run.
QUICK_MODELS = ("normal_gamma",)
QUICK_KINDS = ("AutoNormal", "AutoHierarchicalNormal")
QUICK_SPOILT = ("two_modes",)

#: Comparisons of chains by their part: the function, its size, and that of a quick run.
COMPARISONS: dict[str, tuple] = {
    **dict.fromkeys(LOO_PARTS, (compare_loo, cross_validation.Size(), cross_validation.QUICK)),
    "warm_start": (time_starts, warm_starts.Size(), warm_starts.QUICK),
    "chain_means": (compare_means, chain_means.Size(), chain_means.QUICK),
}

Job = tuple[str, str, str]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("guides", __doc__)
    command.add_count("--seeds", "certificates of each trained guide (20; quick: 3)")
    command.add_seed()
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    seeds = options.seeds or (3 if options.quick else 20)
    configuration = {
        "seed": options.seed,
        "seeds": {"evidence": seeds, "comfort": min(seeds, 3)},
        "num_samples": 2_000 if options.quick else 10_000,
        "share_of_steps": 0.2 if options.quick else 1.0,
        "quick": options.quick,
    }
    fresh: dict[str, Any] = {"configuration": configuration, "seconds": 0.0}
    fresh |= {"evidence": {}, "comfort": {}}
    file = options.out / "guides.json"
    results = start_or_resume(file, fresh, "configuration")
    jobs = jobs_of(options.quick)
    missing = [job for job in jobs if job[2] not in results.get(job[0], {}).get(job[1], {})]

    def add(job: Job, cell: dict[str, Any]) -> None:
        part, model, name = job
        results.setdefault(part, {}).setdefault(model, {})[name] = cell

    def work() -> None:
        bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="cell")
        with compiled_once():
            add_finished(file, results, _finished(missing, configuration), add, bar)

    def write() -> None:
        if any(results.get(part) for part, *_ in jobs):
            draw_pictures = lambda folder: draw_evidence(folder / "evidence.png", results)
            write_results(file, results, report, draw_pictures)

    work_then_report(work, write)


def jobs_of(quick: bool) -> list[Job]:
    """The cells of all parts: part, model, and guide, what is spoilt in it, or repeat."""
    trained = QUICK_MODELS if quick else tuple(models())
    kinds = QUICK_KINDS if quick else tuple(KINDS)
    spoilt = models() | simple_targets()
    names = QUICK_SPOILT if quick else tuple(spoilt)
    jobs = [
        ("comfort", name, change) for name in names for change in changes_of(name, spoilt[name])
    ]
    jobs += [("evidence", model, kind) for kind in kinds for model in trained]
    return jobs + loo_jobs(quick) + start_jobs(quick) + mean_jobs(quick)


def _finished(
    jobs: list[Job], configuration: dict[str, Any]
) -> Generator[tuple[Job, dict[str, Any]]]:
    """Each job with its cell."""
    for job in jobs:
        measured = _compared if job[0] in COMPARISONS else _certified
        cell = measured(job, configuration)
        jax.clear_caches()  # compiled programs of one cell are of no use to the next
        yield job, cell


def _compared(job: Job, configuration: dict[str, Any]) -> dict[str, Any]:
    """A comparison of chains."""
    part, *names = job
    compare, size, quick_size = COMPARISONS[part]
    is_quick = configuration["quick"]
    # The figures of a quick run are rough, and its time is that of compilation.
    with hasty_compilation() if is_quick else nullcontext():
        return compare(*names, configuration["seed"], quick_size if is_quick else size)


def _certified(job: Job, configuration: dict[str, Any]) -> dict[str, Any]:
    """A guide that is trained or spoilt, certified, and compared with the exact posterior."""
    part, model, name = job
    problem = (models() | simple_targets())[model]
    train_key, certify_key = random.split(key_of(configuration["seed"], *job))
    with Stopwatch() as watch:
        if part == "evidence":
            fit = train(problem, name, train_key, configuration["share_of_steps"])
        else:
            fit = spoil(problem, name)
    seeds, num_samples = configuration["seeds"][part], configuration["num_samples"]
    cell = measure(problem, fit, certify_key, seeds, num_samples)
    return cell | {"train_seconds": watch.seconds + watch.compile_seconds}


if __name__ == "__main__":
    end_process(main())
