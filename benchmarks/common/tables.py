"""Markdown tables from plain numbers."""

from collections.abc import Sequence
import math


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is left-aligned and the others right-aligned."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def number(value: float | None, digits: int = 3) -> str:
    """A figure with that many decimals; a dash where there is none that is finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value:.2g}"
    return f"{value:.{digits}f}".replace("-", "−")
