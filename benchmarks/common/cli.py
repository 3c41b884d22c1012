"""The command line of every benchmark: options, refusals, interruption, closing line."""

import argparse
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
import sys
import time
from typing import Any

from tqdm import tqdm

from benchmarks.common.results import RESULTS, InputError, check_writable, write_json


class Command:
    """The command ``python -m benchmarks.<name>``; its option ``--out`` names the results folder.

    :param name: the module below ``benchmarks``, "funnel.variants" for instance.
    :param description: the module's docstring, printed unchanged by ``--help``.
    """

    def __init__(self, name: str, description: str | None):
        self.name = name
        self.parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument(
            "--out",
            type=Path,
            default=RESULTS / name.replace(".", "_"),
            help="folder for the results (%(default)s)",
        )

    def add_count(self, flag: str, help: str, default: int | None = None) -> None:
        """Add an option that takes an integer >= 1."""
        self.parser.add_argument(
            flag, type=positive_integer, metavar="N", default=default, help=help
        )

    def add_seed(self) -> None:
        """Add ``--seed``."""
        self.parser.add_argument(
            "--seed", type=int, default=0, help="seed of every random number (%(default)s)"
        )

    def add_quick(self) -> None:
        """Add ``--quick``."""
        self.parser.add_argument(
            "--quick", action="store_true", help="run every part briefly; figures are rough"
        )

    def run(
        self, work: Callable[[argparse.Namespace], None], arguments: list[str] | None = None
    ) -> int:
        """Parse the arguments and call ``work(options)``, which writes ``report.md``.

        :return: the exit status: 2 if an input is refused, with the reason in one line.
        """
        options = self.parser.parse_args(arguments)
        started = time.perf_counter()
        try:
            check_writable(options.out)
            work(options)
        except InputError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        seconds = time.perf_counter() - started
        print(f"Wrote {options.out / 'report.md'} after {seconds:.0f} s.")
        return 0


@contextmanager
def ends_on_interrupt(name: str) -> Iterator[None]:
    """A block that Ctrl-C ends early; what follows reports on the finished part."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the report covers what is finished.", file=sys.stderr)


def add_finished(
    name: str,
    file: Path,
    results: dict[str, Any],
    finished: Generator[tuple[Any, Any]],
    add: Callable[[Any, Any], None],
    bar: tqdm,
) -> None:
    """Add finished jobs to ``results``, and write the file after each; Ctrl-C ends it early.

    :param finished: yields (job, outcome); see :func:`.workers.run_parallel`.
    :param add: adds an outcome to ``results``, whose ``seconds`` this function updates.
    """
    seconds_before, started = results["seconds"], time.perf_counter()
    with ends_on_interrupt(name), closing(finished), bar:
        for job, outcome in finished:
            add(job, outcome)
            results["seconds"] = seconds_before + time.perf_counter() - started
            write_json(file, results)
            bar.set_postfix_str(str(job), refresh=False)
            bar.update()
    write_json(file, results)


def positive_integer(text: str) -> int:
    """An integer >= 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1; got {text!r}; pass at least 1")
    return int(text)
