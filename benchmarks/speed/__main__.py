"""What does a training step cost, compared with other losses?

Ratios of step times, measured alternately in one run: against NumPyro's RenyiELBO with the same
mean number of draws, against SUMO padded to its longest tail, and against compiling for each number
of draws. Also: step time against the number of draws, memory against the longest possible tail, the
value of one stopping time for each datum, and growth with dimension and batch. Run it on an idle
machine.
"""

import argparse
import os
from pathlib import Path
import time
from typing import Any

from tqdm import tqdm

import jax

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, raise_if_interrupted, work_then_report
from benchmarks.speed.pictures import draw_times
from benchmarks.speed.report import report
from benchmarks.speed.run import SECTIONS


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("speed", __doc__)
    command.add_count("--repeats", "how often each case is timed (15; quick: 3)")
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    repeats = options.repeats or (3 if options.quick else 15)
    started = time.perf_counter()
    results: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "load_before": os.getloadavg()[0],
        "repeats": repeats,
    }

    def work() -> None:
        bar = tqdm(SECTIONS.items(), unit="section")
        for name, measure in bar:
            bar.set_postfix_str(name)
            results[name] = measure(repeats, options.quick)
            raise_if_interrupted()

    def draw_pictures(folder: Path) -> None:
        if "draws" in results:
            draw_times(folder / "draws.png", results["draws"])

    def write() -> None:
        if any(name in results for name in SECTIONS):
            results["seconds"] = time.perf_counter() - started
            write_results(options.out / "speed.json", results, report, draw_pictures)

    work_then_report(work, write)


if __name__ == "__main__":
    end_process(main())
