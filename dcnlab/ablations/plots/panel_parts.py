"""Parts of panels of images: the pictures, boxes, marks, legends and scales of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from dcnlab.ablations.plots.style import TEXT, TITLE

_PANEL = 3.4
"""Inches that a panel's longer side has."""


Array = NDArray[np.float64]


def panels(
    pictures: Sequence[Image.Image], title: str, beside: float = 0.0, below: float = 0.0
) -> tuple[Figure, list[Any]]:
    """Pictures in a row, or in rows of three, without axes; with room to their right and below, in inches."""
    columns = min(len(pictures), 4 if len(pictures) == 4 else 3)
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    longer = max(width, height)
    size = (
        columns * (_PANEL * width / longer + 0.08) + beside,
        rows * (_PANEL * height / longer + 0.32) + below + 0.4,
    )
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=TITLE + 1, fontweight="bold")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes[len(pictures) :]:
        axis.remove()
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(np.asarray(picture), interpolation="nearest" if longer < 200 else "antialiased")
        axis.set_axis_off()
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure, axes[: len(pictures)]


def faded(picture: Image.Image) -> Image.Image:
    """The picture in pale grey, for colours to be laid over it."""
    grey = np.asarray(picture.convert("L"), np.float64)
    return Image.fromarray((165 + 0.35 * grey).clip(0, 255).astype(np.uint8)).convert("RGB")


def rectangle(box: Array, colour: str, width: float, alpha: float = 1.0) -> Rectangle:
    """The outline of a box (x1, y1, x2, y2), with a dark rim that shows it on pale pictures."""
    x1, y1, x2, y2 = box
    around = [patheffects.withStroke(linewidth=width + 1, foreground="black", alpha=0.35)]
    return Rectangle(
        (x1 - 0.5, y1 - 0.5),
        x2 - x1,
        y2 - y1,
        fill=False,
        edgecolor=colour,
        linewidth=width,
        alpha=alpha,
        path_effects=around,
    )


def mark(colour: str, label: str, size: float) -> Line2D:
    """The entry of a legend for dots of a colour."""
    return Line2D(
        [], [], color="none", marker="o", markerfacecolor=colour, markeredgewidth=0, markersize=size, label=label
    )


def legend(figure: Figure, marks: Sequence[Any]) -> None:
    """Put a legend below the panels."""
    figure.legend(handles=list(marks), loc="outside lower center", ncols=len(marks), frameon=False, fontsize=TEXT)


def colour_scale(
    figure: Figure, axes: Sequence[Any], norm: Normalize, name: str | Colormap, label: str, clipped: bool = False
) -> None:
    """Put the colour scale next to the panels; `clipped` marks that larger values have its last colour."""
    bar = figure.colorbar(
        ScalarMappable(norm, name),
        ax=list(axes),
        shrink=0.85,
        aspect=28,
        pad=0.015,
        extend="max" if clipped else "neither",
    )
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
