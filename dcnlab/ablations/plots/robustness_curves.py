"""Curves of robustness: a line for each group of runs, over rotation and scale of the test images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dcnlab.ablations.plots import style

_WORDS = {"rotation": "rotation", "scale": "scaling"}
_TICKS = 12
"""Amounts that an axis labels one by one; of more, some are labelled."""


class Panel(NamedTuple):
    """One change of the test images."""

    change: str
    """rotation or scale."""
    axis: str
    amounts: list[float]
    lines: list[list[dict[str, Any]]]
    """Of each group the rows at these amounts, with `top1` and `top1_std`."""


def draw(title: str, labels: Sequence[str], panels: Sequence[Panel]) -> bytes:
    """The curves as a PNG: the mean of a group's seeds, and a band of one standard deviation to either side.

    Args:
        title: what the runs are of.
        labels: of the groups.
        panels: from left to right.
    """
    figure = Figure(figsize=(1 + 4.5 * len(panels), 5.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    for at, (change, axis, amounts, lines) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), at + 1)
        for number, (label, line) in enumerate(zip(labels, lines, strict=True)):
            mean = [math.nan if row["top1"] is None else row["top1"] for row in line]
            std = [row["top1_std"] or 0.0 for row in line]
            look = style.series(number)
            axes.plot(amounts, mean, label=style.text(label), **look)
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axes.fill_between(amounts, low, high, color=look["color"], alpha=0.12, linewidth=0)
        if change == "scale":
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
        if len(amounts) <= _TICKS:
            axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        axes.set(xlabel=axis, ylabel="top-1 accuracy (%), mean and std over seeds" if at == 0 else "")
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    figure.suptitle(style.text(heading(title, [panel.change for panel in panels])), fontsize=style.TITLE)
    file = io.BytesIO()
    figure.savefig(file, format="png", pil_kwargs={"optimize": True})
    return file.getvalue()


def heading(title: str, changes: Sequence[str]) -> str:
    """What the figure shows: the metric, the changes of the test images, and what the runs are of."""
    words = " and ".join(_WORDS.get(change, change) for change in changes)
    return f"Top-1 accuracy under {words} of the test images: {title}"
