"""Matplotlib for the benchmarks: the file backend, the palette, and saving."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
import matplotlib.pyplot as plt

#: Okabe and Ito's palette, safe for colour blindness, and a purple.
VERMILION, BLUE, GREEN, ORANGE = "#D55E00", "#0072B2", "#009E73", "#E69F00"
SKY, PINK, PURPLE = "#56B4E9", "#CC79A7", "#7B3294"
BLACK, GREY, LIGHT_GREY = "#000000", "#777777", "#999999"

DOTS_PER_INCH = 130


def save(figure: Figure, file: Path, top: float = 1.0, boxed: bool = False) -> None:
    """Write a figure to ``file`` and close it.

    :param top: the share of the height that the axes may fill.
    :param boxed: whether to keep the top and right border of each axis.
    """
    if not boxed:
        for axis in figure.axes:
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0.0, 0.0, 1.0, top))
    figure.savefig(file, dpi=DOTS_PER_INCH)
    plt.close(figure)
