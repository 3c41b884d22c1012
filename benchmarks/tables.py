"""Markdown tables from plain numbers."""

from collections.abc import Sequence
import math


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is left-aligned and the others right-aligned."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def number(value: float | None, digits: int = 3) -> str:
    """A figure with that many decimals; a dash for none, and a word where it is not finite."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= 10_000:
        return f"{value:.2g}"
    return f"{value:.{digits}f}".replace("-", "−")
