"""The picture of the posteriordb benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import plots
from benchmarks.posteriordb.errors import largest_share
from benchmarks.posteriordb.report import rows_of, titles_of

_STYLES = {
    "fit": (plots.VERMILION, "o"),
    "fit_guide": (plots.ORANGE, "o"),
    "nuts": (plots.BLUE, "D"),
    "multivariate_normal": (plots.GREEN, "s"),
    "bnaf": (plots.PURPLE, "s"),
    "pathfinder": (plots.BLACK, "x"),
}

#: The largest share of a limit on the axis.
_RIGHT = 100.0


def draw_errors(file: Path, results: dict[str, Any]) -> None:
    """The largest error of each sampler as a share of its limit, a row for each posterior."""
    posteriors = list(results["cells"])
    figure, axis = plt.subplots(figsize=(9.0, 1.6 + 0.24 * len(posteriors)))
    titles = titles_of(results)
    for number, (name, title) in enumerate(titles.items()):
        found = [(posteriors.index(p), row) for p, row, _ in rows_of(results, name) if row]
        shares = np.clip([largest_share(row) for _, row in found], None, _RIGHT)
        rows = np.array([row for row, _ in found]) + 0.1 * (number - 0.5 * (len(titles) - 1))
        colour, marker = _STYLES[name]
        axis.plot(shares, rows, marker, color=colour, markersize=4, label=title)
    axis.axvline(1.0, color=plots.LIGHT_GREY, linewidth=0.8)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_yticks(range(len(posteriors)), posteriors, fontsize=8)
    axis.set_ylim(len(posteriors) - 0.5, -0.5)
    axis.grid(axis="y", color=plots.LIGHT_GREY, linewidth=0.3)
    axis.set_xlabel(f"largest error / limit (those above {_RIGHT:g}, and ∞, at the right edge)")
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    plots.save(figure, file)
