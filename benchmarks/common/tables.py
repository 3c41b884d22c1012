"""Markdown tables from plain numbers."""

from collections.abc import Sequence
import math


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is left-aligned and the others right-aligned."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def number(value: float | None, digits: int = 3) -> str:
    """A number with that many decimals; a dash for None and for numbers that are not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value:.2g}"
    return f"{value:.{digits}f}".replace("-", "−")


def with_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """A number ± its standard error."""
    return f"{number(value, digits)} ± {number(error, digits)}"


def count(value: float | None) -> str:
    """A number without decimals, however large; a dash as in :func:`number`."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.0f}"


def bold(text: str, is_bold: bool = True) -> str:
    """The text in bold, where it is to be."""
    return f"**{text}**" if is_bold else text
