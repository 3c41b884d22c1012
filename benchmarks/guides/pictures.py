"""The picture of the guides benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import plots
from benchmarks.guides.guides import KINDS
from benchmarks.guides.report import LIMIT, cells_of, is_finite
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

#: The smallest k-hat on the axis.
LEFT = -0.5

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
    """Errors of log-evidence in standard errors against k-hat, a point for each certificate.

    Certificates whose standard error is ∞ are left out.
    """
    figure, axes = plt.subplots(figsize=(9.0, 4.6))
    for kind, colour in zip(KINDS, COLOURS):
        cells = [cell for _, name, cell in cells_of(results, "evidence") if name == kind]
        cells = [cell for cell in cells if "refused" not in cell]
        keys = ("pareto_k", "z", "log_evidence_se")
        each = [row for cell in cells for row in zip(*(cell[key] for key in keys))]
        known = [row[:2] for row in each if is_finite(row[2])]
        k_hats, z = np.array(known, np.float64).reshape(-1, 2).T
        # None, which is −∞, is drawn at the left edge.
        k_hats = np.clip(np.nan_to_num(k_hats, nan=LEFT), LEFT, None)
        axes.plot(k_hats, z, ".", color=colour, markersize=4, label=kind)
    axes.axvline(LARGEST_PARETO_K, color=plots.LIGHT_GREY, linewidth=0.8)
    for limit in (-LIMIT, LIMIT):
        axes.axhline(limit, color=plots.LIGHT_GREY, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=LIMIT, linscale=2.0)
    axes.set_yticks([-100, -50, -20, -10, -4, -2, 0, 2, 4])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    axes.set_xlabel(f"k-hat (those below {LEFT:g} at the left edge)".replace("-0", "−0"))
    axes.set_ylabel("error of log-evidence / its standard error")
    axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    plots.save(figure, file)
