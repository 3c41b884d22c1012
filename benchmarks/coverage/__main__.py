"""Do 95 % intervals of ``standard_errors`` contain the truth in 95 % of simulated data sets?

The models are a linear mixed model and a random-effects logistic regression, whose likelihoods are
known in closed form and by quadrature. Every data set is fitted by exact maximum likelihood.
"""

import argparse
import time
from typing import Any

from jax import random

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.coverage.models import MODELS
from benchmarks.coverage.report import report
from benchmarks.coverage.run import ESTIMATOR, LEVEL, NUM_ESTIMATES, cover


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("coverage", __doc__)
    command.add_count("--sets", "data sets of each model (%(default)s)", default=500)
    command.add_seed()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    results: dict[str, Any] = {
        "seed": options.seed,
        "level": LEVEL,
        "num_estimates": NUM_ESTIMATES,
        "estimator": f"MultilevelSUMO({ESTIMATOR.num_particles}, data_axes={ESTIMATOR.data_axes})",
        "cells": [],
    }

    def work() -> None:
        for index, name in enumerate(MODELS):
            key = random.fold_in(random.key(options.seed), index)
            results["cells"].append(cover(name, key, options.sets))

    def write() -> None:
        if results["cells"]:
            results["seconds"] = time.perf_counter() - started
            write_results(options.out / "coverage.json", results, report)

    work_then_report(work, write)


if __name__ == "__main__":
    end_process(main())
