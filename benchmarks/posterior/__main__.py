"""On posteriors that are hard for a chain: what is a learned sampler worth, before and after it is
made exact, and from when does its training pay?

A hierarchical guide is trained by reverse KL on each of seven models as a person would write it.
Its draws as they are, resampled by importance weights, and corrected by Metropolis stand beside
NUTS on the same model, under ArviZ and against exact draws or long chains of NUTS in better
coordinates. Stop it when you like: the same command goes on with the models that are missing.
"""

import argparse
from pathlib import Path
import shutil
import sys

from benchmarks.common.cli import benchmark_parser, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.results import written_whole
from benchmarks.common.workers import num_cores
from benchmarks.posterior.bench import DEFAULT, QUICK, begun, run_all
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.report import report

DEFAULT_OUT = Path(__file__).parents[1] / "results" / "posterior"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    options = parse(arguments)
    if refused("posterior", options.out):
        return 2
    names = list(PROBLEMS) if options.model == "all" else [options.model]
    scale, out = (QUICK if options.quick else DEFAULT), options.out
    try:
        results = begun(scale, options.seed, out)
    except ValueError as error:
        print(f"posterior: {error}", file=sys.stderr)
        return 2
    num_workers = num_cores() if options.quick else 1  # times are of one at a time
    run_all(results, names, scale, options.seed, out, num_workers)
    with written_whole(out) as folder:
        for picture in out.glob("*.png"):
            shutil.copy(picture, folder)
        write_report(folder, report(results))
    print(f"Wrote {out / 'report.md'} after {results['seconds']:.0f} s in all.")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser("posterior", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--model",
        choices=["all", *PROBLEMS],
        default="all",
        help="one of %(choices)s (%(default)s)",
        metavar="MODEL",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    parser.add_argument(
        "--quick", action="store_true", help="the whole path in little time; its figures are rough"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
