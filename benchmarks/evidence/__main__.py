"""How large are bias and variance of each estimator of log p(x), where log p(x) is known?

Four models have a closed-form evidence, each with a guide that misses its posterior by more and
more. For every estimator: bias and standard error of the value and of its gradient in the model's
parameter, variance, and variance times the mean number of draws, which measures the cost of
accuracy; also the Pareto k-hat of the weights.
"""

import argparse
from pathlib import Path
import time
from typing import Any

from jax import random

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.evidence.pictures import draw_biases, draw_costs
from benchmarks.evidence.report import report
from benchmarks.evidence.run import BATCH, ESTIMATORS, measure_all


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("evidence", __doc__)
    command.add_count("--batches", f"batches of {BATCH} estimates for each figure (50; quick: 2)")
    command.add_seed()
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    num_batches = max(2, options.batches or (2 if options.quick else 50))
    started = time.perf_counter()
    results: dict[str, Any] = {
        "seed": options.seed,
        "estimates": num_batches * BATCH,
        "mean_draws": {name: loss.mean_draws for name, loss in ESTIMATORS.items()},
        "models": {},
    }

    def draw_pictures(folder: Path) -> None:
        draw_biases(folder / "biases.png", results)
        draw_costs(folder / "costs.png", results)

    def write() -> None:
        if results["models"]:
            results["seconds"] = time.perf_counter() - started
            write_results(options.out / "evidence.json", results, report, draw_pictures)

    work_then_report(lambda: measure_all(results, random.key(options.seed), num_batches), write)


if __name__ == "__main__":
    end_process(main())
