"""The command line of every benchmark: options, refusals, interruption, closing line."""

import argparse
from collections.abc import Callable, Generator
from contextlib import closing
import errno
from pathlib import Path
import sys
import time
from typing import Any

from tqdm import tqdm

from benchmarks.common.interrupts import INTERRUPTED, raise_if_interrupted, recorded_interrupts
from benchmarks.common.results import RESULTS, InputError, check_writable, write_json

#: Errors of the disk, not of a program: no space, over quota, input or output, read only.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


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

        :return: the exit status: 2 if an input is refused, 1 if the disk does not take a file, 130
            after Ctrl-C; each with a line on stderr.
        """
        options = self.parser.parse_args(arguments)
        started = time.perf_counter()
        try:
            with recorded_interrupts():
                check_writable(options.out)
                work(options)
                raise_if_interrupted()
        except InputError as error:
            return self._failed(str(error), 2)
        except KeyboardInterrupt:
            return self._failed(
                f"interrupted; what was finished is in '{options.out}'.", INTERRUPTED
            )
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            return self._failed(
                f"Expected to write '{error.filename or options.out}'; got an error of the disk "
                f"({error.strerror}). Free some space, or choose another folder with --out.",
                1,
            )
        seconds = time.perf_counter() - started
        print(f"Wrote {options.out / 'report.md'} after {seconds:.0f} s.")
        return 0

    def _failed(self, reason: str, status: int) -> int:
        """Print the reason in a line of its own, and return the status."""
        print(f"{self.name}: {reason}", file=sys.stderr)
        return status


def add_finished(
    file: Path,
    results: dict[str, Any],
    finished: Generator[tuple[Any, Any]],
    add: Callable[[Any, Any], None],
    bar: tqdm,
) -> None:
    """Add finished jobs to ``results``, and write the file after each.

    :param finished: yields (job, outcome); see :func:`.workers.run_parallel`.
    :param add: adds an outcome to ``results``, whose ``seconds`` this function updates.
    """
    seconds_before, started = results["seconds"], time.perf_counter()
    with closing(finished), bar:
        for job, outcome in finished:
            add(job, outcome)
            results["seconds"] = seconds_before + time.perf_counter() - started
            write_json(file, results)
            bar.set_postfix_str(str(job), refresh=False)
            bar.update()
            raise_if_interrupted()
    write_json(file, results)


def positive_integer(text: str) -> int:
    """An integer >= 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1; got {text!r}; pass at least 1")
    return int(text)
