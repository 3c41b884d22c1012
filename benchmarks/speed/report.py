"""The report of the speed benchmark, and its picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common.tables import markdown_table, number


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``, on the sections that are there."""
    parts = [
        f"""# What a step costs

{results["device"]}, {results["cores"]} cores, JAX {results["jax"]}, load before the run
{results["load_before"]:.1f}. Each case was timed {results["repeats"]} times, in turns; the run took
{results["seconds"]:.0f} s. Ratios are medians of what was timed one after the other.
"""
    ]
    for name, section in _SECTIONS.items():
        if name in results:
            parts.append(section(results[name]))
    return "\n".join(parts)


def _steps(rows: list[dict[str, Any]]) -> str:
    header = [
        "program",
        "loss",
        "mean draws",
        "ms",
        "beside",
        "ratio",
        "s to compile",
        "and beside",
    ]
    table = [
        [
            row["program"],
            row["loss"],
            number(row["mean_draws"], 1),
            number(row["milliseconds"], 3),
            row["baseline"],
            number(row["ratio"], 2),
            number(row["compile_seconds"], 1),
            number(row["compile_seconds_of_baseline"], 1),
        ]
        for row in rows
    ]
    return f"""## A step of training

Beside a loss of a fixed number of draws: the mean number, rounded.

{markdown_table(header, table)}
"""


def _wasteful(found: dict[str, Any]) -> str:
    return f"""## Beside other ways to a random number of draws

On the {found["program"]}, SUMO padded to its longest possible tail takes
{found["padded_ratio"]:.1f} times as long, and {found["padded_temporary_ratio"]:.1f} times the
temporary memory. Compiled for each number of draws, {found["static_steps"]} steps took
{found["static_compilations"]} compilations and {found["static_seconds"]:.0f} s, beside
{found["ragged_seconds"]:.1f} s with the one compilation that there is here.
"""


def _draws(found: dict[str, Any]) -> str:
    return f"""## Time follows the draws that were made

On the {found["program"]}: {found["microseconds_per_draw"]:.2f} µs for a draw of one datum, its
gradient included; no step is further from proportion than {100 * found["largest_deviation"]:.0f} %.

![Time of a step against its draws](draws.png)
"""


def _memory(rows: list[dict[str, Any]]) -> str:
    least = min(row["temporary_bytes"] for row in rows)
    table = [
        [
            str(row["longest"]),
            number(row["temporary_bytes"] / 1e6, 2),
            number(row["temporary_bytes"] / least, 2),
        ]
        for row in rows
    ]
    return f"""## Memory does not follow the longest tail

{markdown_table(["longest tail", "temporary memory, MB", "ratio to the least"], table)}
"""


def _sharing(rows: list[dict[str, Any]]) -> str:
    shared = {r["batch"]: r["variance_times_seconds"] for r in rows if r["way"] == "shared"}
    table = [
        [
            str(row["batch"]),
            row["way"],
            number(row["milliseconds"], 3),
            number(row["variance"], 1),
            number(row["variance_times_seconds"] / shared[row["batch"]], 3),
        ]
        for row in rows
    ]
    return f"""## Stopping times of the data's own

One stopping time for all data ("shared"), one for each in a batch that runs until the longest ends
("lockstep"), one for each in a queue ("ragged"). The last column is variance times time, as a share
of the shared one's.

{markdown_table(["batch", "stopping times", "ms", "variance", "variance × time"], table)}
"""


def _growth(found: dict[str, Any]) -> str:
    table = [
        [str(row["dimension"]), str(row["batch"]), number(1e3 * row["seconds"], 3)]
        for row in found["rows"]
    ]
    return f"""## Growth with dimension and batch

Among the larger of these, time grows as dimension to the power of
{number(found["exponent_of_dimension"], 2)} and batch to the power of
{number(found["exponent_of_batch"], 2)}.

{markdown_table(["dimension", "batch", "ms"], table)}
"""


def _compilations(found: dict[str, int]) -> str:
    return f"""## Compilations

{found["compilations"]} in {found["steps"]} steps.
"""


_SECTIONS: dict[str, Callable[[Any], str]] = {
    "steps": _steps,
    "wasteful": _wasteful,
    "draws": _draws,
    "memory": _memory,
    "sharing": _sharing,
    "growth": _growth,
    "compilations": _compilations,
}


def draw_times(file: Path, found: dict[str, Any]) -> None:
    """Time of a step against the draws that it made, and the line through the origin."""
    draws, seconds = np.array(found["draws"]), np.array(found["seconds"])
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    line = np.array([0.0, 1.05 * draws.max()])
    per_draw = 1e-6 * found["microseconds_per_draw"]
    axis.fill_between(
        line, 0.8e3 * per_draw * line, 1.2e3 * per_draw * line, color="#DDDDDD", label="± 20 %"
    )
    axis.plot(line, 1e3 * per_draw * line, color="#555555", linewidth=1, label="in proportion")
    axis.plot(draws, 1e3 * seconds, "o", markersize=4, color="#D55E00", label="steps")
    axis.set_xlim(0.0, line[1])
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("draws that the step made, over all data")
    axis.set_ylabel("time of the step, ms")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
