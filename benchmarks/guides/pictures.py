"""The picture of the guides benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import plots
from benchmarks.guides.guides import KINDS
from benchmarks.guides.report import LIMIT, cells_of
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

COLOURS = (
    plots.GREEN,
    plots.BLUE,
    plots.VERMILION,
    plots.ORANGE,
    plots.PURPLE,
    plots.PINK,
    plots.BLACK,
    plots.SKY,
)


def draw_evidence(file: Path, results: dict[str, Any]) -> None:
    """Errors of log-evidence in standard errors against k-hat, a point for each certificate."""
    figure, axes = plt.subplots(figsize=(9.0, 4.6))
    for kind, colour in zip(KINDS, COLOURS):
        cells = [cell for _, name, cell in cells_of(results, "evidence") if name == kind]
        cells = [cell for cell in cells if "refused" not in cell]
        k_hats, z = (
            np.array([value for cell in cells for value in cell[key]], np.float64)
            for key in ("pareto_k", "z")
        )
        # None, which is −∞, is drawn at the left edge.
        k_hats = np.clip(np.nan_to_num(k_hats, nan=-1.0), -1.0, 3.0)
        axes.plot(k_hats, z, ".", color=colour, markersize=4, label=kind)
    axes.axvline(LARGEST_PARETO_K, color=plots.LIGHT_GREY, linewidth=0.8)
    for limit in (-LIMIT, LIMIT):
        axes.axhline(limit, color=plots.LIGHT_GREY, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=LIMIT)
    axes.set_xlabel("k-hat (those below −1 and above 3 at the edges)")
    axes.set_ylabel("error of log-evidence / its standard error")
    axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    plots.save(figure, file)
