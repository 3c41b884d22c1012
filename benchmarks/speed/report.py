"""Report of the speed benchmark: every figure comes from its JSON."""

from collections.abc import Callable
from typing import Any

from benchmarks.common.tables import markdown_table, number


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, on the sections that were measured."""
    introduction = f"""# What a training step costs

{results["device"]}, {results["cores"]} cores, JAX {results["jax"]}, load before the run
{results["load_before"]:.1f}. Each case was timed {results["repeats"]} times, alternating with the
others; the run took {results["seconds"]:.0f} s. Ratios are medians over repetitions.
"""
    sections = [section(results[name]) for name, section in _SECTIONS.items() if name in results]
    return "\n".join([introduction, *sections])


def price_table(results: dict[str, Any]) -> str:
    """Step and compilation time of losses on the autoencoder, divided by RenyiELBO's."""
    header = ["loss", "step, × RenyiELBO at the same mean draws", "compilation, × RenyiELBO"]
    rows = [
        [
            f"`{row['loss']}`",
            number(row["ratio"], 2),
            number(row["compile_seconds"] / row["compile_seconds_of_baseline"], 1),
        ]
        for row in results["steps"]
        if row["program"].startswith("autoencoder") and "," not in row["loss"]
    ]
    return markdown_table(header, rows)


def _steps(rows: list[dict[str, Any]]) -> str:
    header = ["program", "loss", "mean draws", "ms", "baseline", "ratio"]
    header += ["s to compile", "baseline's"]
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
    return f"""## A training step

The baseline makes a fixed number of draws: the loss's mean number, rounded.

{markdown_table(header, table)}
"""


def _wasteful(found: dict[str, Any]) -> str:
    return f"""## Other ways to make a random number of draws

On the {found["program"]}, SUMO padded to its longest possible tail takes
{found["padded_ratio"]:.1f} times as long, and {found["padded_temporary_ratio"]:.1f} times the
temporary memory. Compiled for each number of draws, {found["static_steps"]} steps took
{found["static_compilations"]} compilations and {found["static_seconds"]:.0f} s; SUMO compiles once
and took {found["ragged_seconds"]:.1f} s.
"""


def _draws(found: dict[str, Any]) -> str:
    return f"""## Time is proportional to the number of draws

On the {found["program"]}: {found["microseconds_per_draw"]:.2f} µs for a draw of one datum, its
gradient included; no step deviates by more than {100 * found["largest_deviation"]:.0f} %.

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
    return f"""## Memory does not depend on the longest tail

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
    return f"""## One stopping time for each datum

One stopping time for all data ("shared"); one for each datum, evaluated under ``vmap`` until the
longest tail ends ("lockstep"), or in a queue ("ragged"). The last column is variance times time,
divided by that of "shared".

{markdown_table(["batch", "stopping times", "ms", "variance", "variance × time"], table)}
"""


def _whole_plate(rows: list[dict[str, Any]]) -> str:
    shared = {r["loss"]: r["variance_times_seconds"] for r in rows if r["way"] == "one for all"}
    table = [
        [
            row["loss"],
            row["way"],
            number(row["milliseconds"], 3),
            number(row["variance"], 2),
            number(row["variance_times_seconds"] / shared[row["loss"]], 3),
            f"{number(row['mean_less_exact'], 3)} ± {number(row['standard_error'], 3)}",
        ]
        for row in rows
    ]
    header = ["loss", "stopping times", "ms", "variance", "variance × time", "mean − log p(x)"]
    return f"""## Automatic guides on whole plates

{rows[0]["program"]}: no option given ("own"), beside `share_stopping_times=True`. The fifth column
is divided by that of one stopping time for all; values are in nats.

{markdown_table(header, table)}
"""


def _growth(found: dict[str, Any]) -> str:
    exponents = [number(found[f"exponent_of_{of}"], 2) for of in ("dimension", "batch")]
    table = [
        [str(row["dimension"]), str(row["batch"]), number(1e3 * row["seconds"], 3)]
        for row in found["rows"]
    ]
    return f"""## Growth with dimension and batch

For the larger programs, time grows as dimension to the power {exponents[0]} and batch size to the
power {exponents[1]}.

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
    "whole_plate": _whole_plate,
    "growth": _growth,
    "compilations": _compilations,
}
