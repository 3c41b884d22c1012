"""The picture of the speed benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import plots


def draw_times(file: Path, found: dict[str, Any]) -> None:
    """Time of a step against its number of draws, and the line through the origin."""
    draws, seconds = np.array(found["draws"]), np.array(found["seconds"])
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    line = np.array([0.0, 1.05 * draws.max()])
    per_draw = 1e-6 * found["microseconds_per_draw"]
    axis.fill_between(
        line, 0.8e3 * per_draw * line, 1.2e3 * per_draw * line, color="#DDDDDD", label="± 20 %"
    )
    axis.plot(line, 1e3 * per_draw * line, color="#555555", linewidth=1, label="proportional")
    axis.plot(draws, 1e3 * seconds, "o", markersize=4, color=plots.VERMILION, label="steps")
    axis.set_xlim(0.0, line[1])
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("draws in the step, all data together")
    axis.set_ylabel("time of the step, ms")
    axis.legend(frameon=False)
    plots.save(figure, file)
