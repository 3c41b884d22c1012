"""Arguments of the benchmarks' command lines."""

import argparse


def positive_integer(text: str) -> int:
    """An argument of the command line that must be an integer ≥ 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1; got {text!r}; pass at least 1")
    return int(text)
