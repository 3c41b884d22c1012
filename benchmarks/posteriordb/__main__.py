"""Do samplers get posteriors right that nobody tuned them for?

Posteriors of posteriordb, translated from Stan to NumPyro, are sampled by ``fit`` with its default
options, by NUTS on the model as written, by two automatic guides and by Pathfinder. All draws are
compared with the reference draws of posteriordb, which are not part of this repository: clone
https://github.com/stan-dev/posteriordb and pass its folder by ``--data``. An interrupted run is
continued by the same command; further posteriors and samplers are added to it.
"""

import argparse
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
import zlib

from tqdm import tqdm

import jax
from jax import random

from benchmarks.common.cli import Command, add_finished
from benchmarks.common.fast_compile import hasty_compilation
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import InputError, start_or_resume
from benchmarks.posteriordb.database import Database
from benchmarks.posteriordb.errors import errors_of
from benchmarks.posteriordb.pictures import draw_errors
from benchmarks.posteriordb.report import report
from benchmarks.posteriordb.samplers import QUICK, SAMPLERS, Size
from benchmarks.posteriordb.translations import POSTERIORS, problem_of

#: A quick run leaves out samplers that take long to compile, unless asked for.
QUICK_POSTERIORS = ("sblrc-blr", "eight_schools-eight_schools_noncentered")
QUICK_SAMPLERS = ("fit", "nuts")

#: Posterior and sampler.
Job = tuple[str, str]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("posteriordb", __doc__)
    add = command.parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="root of a clone of posteriordb")
    add("--posteriors", metavar="A,B", help="names of posteriors (all translated; quick: two)")
    add(
        "--samplers",
        metavar="A,B",
        help=f"some of {', '.join(SAMPLERS)} (all; quick: {', '.join(QUICK_SAMPLERS)})",
    )
    command.add_count("--minutes", "minutes of each fit (%(default)s)", 3)
    command.add_seed()
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    database = Database(options.data)
    every = tuple(SAMPLERS)
    few = (QUICK_POSTERIORS, QUICK_SAMPLERS) if options.quick else (POSTERIORS, every)
    names = _chosen("posteriors", options.posteriors, POSTERIORS, few[0])
    samplers = _chosen("samplers", options.samplers, every, few[1])
    here = [name for name in names if database.has(name)]
    if skipped := [name for name in names if name not in here]:
        print(f"Skipped, since '{options.data}' does not have them: {', '.join(skipped)}.")
    configuration = {
        "seed": options.seed,
        "minutes": options.minutes,
        "quick": options.quick,
        "size": (QUICK if options.quick else Size())._asdict(),
    }
    fresh: dict[str, Any] = {"configuration": configuration, "seconds": 0.0, "cells": {}}
    file = options.out / "posteriordb.json"
    results = start_or_resume(file, fresh, "configuration")
    cells = results["cells"]
    jobs = [(name, sampler) for name in here for sampler in samplers]
    missing = [(name, sampler) for name, sampler in jobs if sampler not in cells.get(name, {})]

    def add(job: Job, cell: dict[str, Any]) -> None:
        name, sampler = job
        cells.setdefault(name, {})[sampler] = cell

    def work() -> None:
        bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="cell")
        add_finished(file, results, _finished(missing, database, configuration), add, bar)

    def write() -> None:
        if cells:
            draw_pictures = lambda folder: draw_errors(folder / "errors.png", results)
            write_results(file, results, report, draw_pictures)

    work_then_report(work, write)


def _chosen(
    option: str, given: str | None, known: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    """Names from the command line, separated by commas.

    :raises InputError: for one that is not known; one line.
    """
    if given is None:
        return default
    names = tuple(name.strip() for name in given.split(","))
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"Expected names of {option} separated by commas; got '{unknown[0]}'. "
            f"Choose among {', '.join(known)}."
        )
    return names


def _finished(
    jobs: list[Job], database: Database, configuration: dict[str, Any]
) -> Generator[tuple[Job, dict[str, Any]]]:
    """Each job with its cell."""
    is_quick = configuration["quick"]
    for job in jobs:
        jax.clear_caches()  # each sampler pays for what it compiles
        # The figures of a quick run are rough, and its time is that of compilation.
        with hasty_compilation() if is_quick else nullcontext():
            cell = cell_of(job, database, configuration)
        yield job, cell


def cell_of(job: Job, database: Database, configuration: dict[str, Any]) -> dict[str, Any]:
    """Errors of each row of a sampler and its seconds; or the error that it raises."""
    name, sampler = job
    rng_key = random.fold_in(random.key(configuration["seed"]), zlib.crc32("/".join(job).encode()))
    size = QUICK if configuration["quick"] else Size()
    problem = problem_of(database, name)
    try:
        sample = SAMPLERS[sampler](rng_key, problem.model, size, configuration["minutes"])
        rows = {
            row: errors_of(draws, problem.reference) | sample.figures[row]
            for row, draws in sample.rows.items()
        }
    except Exception as error:  # a failure is a result, not the end of the benchmark
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"seconds": sample.seconds, "rows": rows}


if __name__ == "__main__":
    end_process(main())
