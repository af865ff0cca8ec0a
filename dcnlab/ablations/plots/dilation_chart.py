"""Chart of effective dilation against box size, one panel a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dcnlab.ablations.plots import style

_COLUMNS = 3
_NULL, _BACKGROUND, _PLAIN = "0.55", "C1", "0.2"


class Panel(NamedTuple):
    """One layer's effective dilation over its dilation without offsets; lists have an entry for each bin of boxes."""

    layer: str
    sides: list[float]
    """Square root of the boxes' area, pixels of the file, geometric mean."""
    mean: list[float]
    low: list[float]
    high: list[float]
    null: list[float]
    """The same boxes on other images."""
    background: float | None
    """None where every filter is in a box."""


def draw(panels: Sequence[Panel], title: str) -> Figure:
    """The figure: means with intervals, boxes on other images in grey, background as a dashed line.

    Args:
        panels: the first layer of the network first.
        title: of the figure.
    """
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1 + 3.2 * columns, 0.9 + 2.7 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _fill(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for at in range(max(0, len(panels) - columns), len(panels)):
        grid[at].set_xlabel("box side, square root of its area (pixels)", fontsize=style.TEXT)
    for axes in grid[::columns]:
        axes.set_ylabel("effective dilation /\ndilation without offsets", fontsize=style.TEXT)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, 2 * columns), frameon=False, fontsize=style.TEXT
    )
    figure.suptitle(style.text(title), fontsize=style.TITLE)
    return figure


def _fill(axes: Any, panel: Panel) -> None:
    below = [mean - low for mean, low in zip(panel.mean, panel.low, strict=True)]
    above = [high - mean for mean, high in zip(panel.mean, panel.high, strict=True)]
    axes.axhline(1, color=_PLAIN, linestyle=":", linewidth=1, label="without offsets")
    axes.plot(panel.sides, panel.null, color=_NULL, label="boxes on other images")
    if panel.background is not None:
        axes.axhline(panel.background, color=_BACKGROUND, linestyle="--", linewidth=1.2, label="background")
    axes.errorbar(panel.sides, panel.mean, (below, above), capsize=2.5, label="boxes, 95% interval", **style.series(0))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(2, subs=(1.0,), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda side, _: f"{side:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(style.text(panel.layer), fontsize=style.TEXT + 1)
    axes.tick_params(labelsize=style.TEXT - 1)
    axes.grid(alpha=0.3)
