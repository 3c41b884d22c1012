"""Which losses learn the right parameters, where the exact maximum-likelihood estimate is known?

Eight models with one latent vector for each datum or group have an exact likelihood. They are
trained by the ELBO, IWELBO, SUMO and MultilevelSUMO with 5 to 50 expected draws, with a guide that
has parameters for each datum and with an amortised one, over several seeds. The measure is each
parameter less its exact estimate, in percent and in statistical standard errors. With
``--optimisers``, the unbiased losses are trained by each of several optimisers instead. An
interrupted run is continued by the same command.
"""

import argparse
from contextlib import nullcontext
import json
from pathlib import Path

from benchmarks.common.cli import Command
from benchmarks.common.fast_compile import hasty_compilation
from benchmarks.common.html_report import write_report
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import start_or_resume, written_whole
from benchmarks.common.workers import num_cores
from benchmarks.parameters.models import MODELS
from benchmarks.parameters.pictures import draw_deviations
from benchmarks.parameters.report import report
from benchmarks.parameters.run import cells, optimiser_cells, run_missing


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("parameters", __doc__)
    command.add_count("--steps", "training steps (2000; quick: 50)")
    command.add_count("--seeds", "number of seeds (5; quick: 2)")
    command.add_count("--workers", "parallel trainings, a core each (all cores; quick: 1)")
    command.parser.add_argument(
        "--optimisers", action="store_true", help="compare optimisers instead of losses"
    )
    command.parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        default=list(MODELS),
        metavar="NAME",
        help="models to train, a part of the comparison: %(choices)s (all)",
    )
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    config = {
        "steps": options.steps or (50 if options.quick else 2_000),
        "seeds": options.seeds or (2 if options.quick else 5),
    }
    files = {name: options.out / f"{name}.json" for name in ("parameters", "optimisers")}
    name = "optimisers" if options.optimisers else "parameters"
    every = optimiser_cells() if options.optimisers else cells(options.quick)
    jobs = [cell for cell in every if cell.model in options.models]
    fresh = {"configuration": config, "exact": {}, "seconds": 0.0, "cells": {}}
    results = start_or_resume(files[name], fresh, "configuration")
    num_workers = options.workers or (1 if options.quick else num_cores())

    def write() -> None:
        both = {key: json.loads(file.read_text()) for key, file in files.items() if file.exists()}
        _write(options.out, both)

    with hasty_compilation() if options.quick else nullcontext():
        work_then_report(lambda: run_missing(results, files[name], jobs, num_workers), write)


def _write(folder: Path, results: dict[str, dict]) -> None:
    """Picture and report of what is finished; the optimisers' results alone have no picture."""
    if "parameters" in results:
        with written_whole(folder) as partial:
            draw_deviations(partial / "deviations.png", results["parameters"])
            write_report(partial, report(results["parameters"], results.get("optimisers")))


if __name__ == "__main__":
    end_process(main())
