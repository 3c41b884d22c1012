"""What the benchmarks' command lines have in common."""

import argparse
from pathlib import Path
import sys

from benchmarks.common.results import check_writable


def benchmark_parser(name: str, description: str | None, out: Path) -> argparse.ArgumentParser:
    """A parser for ``python -m benchmarks.<name>`` with the option ``--out``.

    :param description: the module's docstring, shown as it stands.
    :param out: where results go by default.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=out, help="folder for the results (%(default)s)"
    )
    return parser


def refused(name: str, out: Path) -> bool:
    """Whether results could not be written to ``out``; says so in one line, before any work."""
    try:
        check_writable(out)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return True
    return False


def positive_integer(text: str) -> int:
    """An argument of the command line that must be an integer ≥ 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1; got {text!r}; pass at least 1")
    return int(text)
