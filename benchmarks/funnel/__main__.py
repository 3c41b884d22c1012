"""Can a learned sampler be trusted where NUTS gets stuck, and which loss does it need?

The target is a funnel, v ~ N(0, 1.35²) and x ~ N(0, exp(2v)). A hierarchical sampler is trained on
it by reverse KL, from the same start and with the same expected number of draws, with log q(x)
estimated without bias (SUMO, MultilevelSUMO), from above (IWHVI) or from below (IWELBO). Its draws
are compared with centred and non-centred NUTS and with exact draws.
"""

import argparse
from pathlib import Path

from jax import random

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.funnel.pictures import draw_pictures
from benchmarks.funnel.report import report
from benchmarks.funnel.run import DEFAULT, QUICK, new_outcome, run_all


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("funnel", __doc__)
    command.add_count("--steps", "training steps with each loss (20000; quick: 200)")
    command.add_seed()
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    scale = QUICK if options.quick else DEFAULT
    scale = scale._replace(steps=options.steps or scale.steps)
    outcome = new_outcome(scale, options.seed)

    def draw(folder: Path) -> None:
        for name, draws in outcome.data.items():
            draws.to_netcdf(folder / f"{name}.nc")
        draw_pictures(folder, outcome, random.key(options.seed), scale)

    def write() -> None:
        if outcome.results["samplers"]:
            write_results(options.out / "funnel.json", outcome.results, report, draw)

    work_then_report(lambda: run_all(outcome, scale, options.seed), write)


if __name__ == "__main__":
    end_process(main())
