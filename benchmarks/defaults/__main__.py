"""Which guide objective, gradient and number of particles should a loss have by default?

Six models have a known evidence. An AutoGuide of each is trained from the same starts by every
loss, changing one option at a time, with the same expected number of draws in total. The measure is
how far the guide's 8-particle bound is below log p(x) after training.
"""

import argparse

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process, raise_if_interrupted
from benchmarks.common.results import start_or_resume
from benchmarks.defaults.report import report
from benchmarks.defaults.run import missing, train_and_judge


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("defaults", __doc__)
    command.add_count(
        "--steps",
        "training steps with 8 particles; other variants make as many draws (%(default)s)",
        default=3_000,
    )
    command.add_count("--seeds", "number of seeds (%(default)s)", default=4)
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    file = options.out / "defaults.json"
    fresh = {"settings": {"steps": options.steps, "seeds": options.seeds}, "models": {}}
    results = start_or_resume(file, fresh, "settings")
    for model, name, variant in missing(results):
        cell = train_and_judge(model, name, variant, options.steps, options.seeds)
        results["models"].setdefault(model, {}).setdefault(name, {})[variant] = cell
        write_results(file, results, report)
        raise_if_interrupted()
    write_results(file, results, report)


if __name__ == "__main__":
    end_process(main())
