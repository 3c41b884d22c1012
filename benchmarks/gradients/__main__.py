"""How much variance does the doubly reparameterised gradient save, and is its mean the same?

The models have a closed-form evidence, and each guide misses its posterior by a given amount: the
parameter that is differentiated. The guide's gradient is computed with ``gradient="dreg"`` and with
``"standard"`` over independent keys, and its mean and variance compared.
"""

import argparse
import time
from typing import Any

from jax import random

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.gradients.report import report
from benchmarks.gradients.run import BATCH, NUM_PARTICLES, compare_all


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("gradients", __doc__)
    command.add_count(
        "--keys", f"gradients for each figure, rounded up to {BATCH}s (%(default)s)", default=20_000
    )
    command.add_seed()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    num_keys = -(-options.keys // BATCH) * BATCH
    started = time.perf_counter()
    results: dict[str, Any] = {
        "seed": options.seed,
        "keys": num_keys,
        "num_particles": NUM_PARTICLES,
        "cells": [],
    }

    def write() -> None:
        if results["cells"]:
            results["seconds"] = time.perf_counter() - started
            write_results(options.out / "gradients.json", results, report)

    key = random.key(options.seed)
    work_then_report(lambda: compare_all(results["cells"], key, num_keys), write)


if __name__ == "__main__":
    end_process(main())
