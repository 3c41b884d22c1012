"""Does it pay to train a latent-variable model on log p(x) itself instead of a bound?

Autoencoders of handwritten digits and of points in the plane are trained by the ELBO, by IWELBO,
and by SUMO and MultilevelSUMO, whose estimates are unbiased for the bound at the end of their
tails. All make the same expected number of draws of each datum, start alike and take as many steps.
The guide is trained on a bound over the draws that are always made, or on the variance of the
estimate, which takes 32 more draws for a baseline. Each training is repeated over seeds and judged
by test log-likelihood. An interrupted run is continued by the same command.
"""

import argparse
import shutil

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_report
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import written_whole
from benchmarks.common.workers import num_cores
from benchmarks.density.bench import Bench
from benchmarks.density.pictures import draw_pictures
from benchmarks.density.plans import plans
from benchmarks.density.report import report


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("density", __doc__)
    command.add_count("--seeds", "number of seeds (5; quick: 2)")
    command.add_count("--workers", "parallel trainings, a core each (all cores; quick: 1)")
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    num_seeds = options.seeds or (2 if options.quick else 5)
    num_workers = options.workers or (1 if options.quick else num_cores())
    bench = Bench(plans(options.quick), num_seeds, options.out)
    file = options.out / "density.json"
    results = bench.start_or_resume(file)

    def write() -> None:
        with written_whole(options.out) as folder:
            # Pictures of trainings whose checkpoints are deleted cannot be drawn again: keep them.
            for picture in options.out.glob("*.png"):
                shutil.copy(picture, folder)
            draw_pictures(folder, results, bench)
            write_report(folder, report(results))

    work_then_report(lambda: bench.run_missing(results, file, num_workers), write)


if __name__ == "__main__":
    end_process(main())
