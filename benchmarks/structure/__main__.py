"""How large is the package, how far do its imports reach, and which functions take much?

All figures are read from the source by ``ast``: lines and docstring lines by folder, the modules
that SUMO imports, functions with more than five parameters, and words of the README. They are
printed as JSON.
"""

import argparse
import json

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process
from benchmarks.structure.report import report
from benchmarks.structure.run import measure


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    return Command("structure", __doc__).run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    results = measure()
    print(json.dumps(results, indent=1))
    write_results(options.out / "structure.json", results, report)


if __name__ == "__main__":
    end_process(main())
