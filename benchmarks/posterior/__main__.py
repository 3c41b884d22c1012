"""On posteriors that are hard for MCMC: how good are learned samplers, and when do they pay?

A hierarchical guide is trained by reverse KL on each of seven models in its usual form. Its draws,
raw, resampled by importance weights, and corrected by Metropolis, are compared with NUTS on the
same model. The references are exact draws, or long chains of NUTS on a reparameterised model. An
interrupted run is continued by the same command.
"""

import argparse
import shutil

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_report
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import written_whole
from benchmarks.common.workers import num_cores
from benchmarks.posterior.bench import DEFAULT, QUICK, new_results, run_all
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.report import report


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("posterior", __doc__)
    command.parser.add_argument(
        "--model",
        choices=["all", *PROBLEMS],
        default="all",
        help="one of %(choices)s (%(default)s)",
        metavar="MODEL",
    )
    command.add_seed()
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    names = list(PROBLEMS) if options.model == "all" else [options.model]
    scale = QUICK if options.quick else DEFAULT
    results = new_results(scale, options.seed, options.out)
    num_workers = num_cores() if options.quick else 1  # parallel runs would disturb the timing

    def write() -> None:
        with written_whole(options.out) as folder:
            for picture in options.out.glob("*.png"):
                shutil.copy(picture, folder)
            write_report(folder, report(results))

    work_then_report(
        lambda: run_all(results, names, scale, options.seed, options.out, num_workers), write
    )


if __name__ == "__main__":
    end_process(main())
