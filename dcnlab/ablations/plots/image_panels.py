"""Panels of images with overlays: sampling points, bins, arrows, colours.

Everything here is in an image's pixels, a pixel's centre being its index, y before x but for boxes: x1, y1, x2, y2,
continuous, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from dcnlab.ablations.plots.panel_parts import Array, colour_scale, faded, legend, mark, panels, rectangle
from dcnlab.ablations.plots.style import GREEN, RED, TITLE, YELLOW

_RASTERED = 4000
"""Points from which PDF and SVG hold a panel's points as pixels."""
_MOST_ARROWS = 24
_ARROWS = ListedColormap(colormaps["plasma"](np.linspace(0, 0.8, 256)))
"""Without the palest colours, which cannot be seen on a pale picture."""


def sampling(
    picture: Image.Image,
    units: Sequence[tuple[str, tuple[float, float], Array]],
    layers: Sequence[str],
) -> Figure:
    """A panel for each activation unit: its position and its sampling locations.

    Args:
        picture: under all of them.
        units: title, place (y, x), sampling points (n, 2) of each.
        layers: names, the last of the network first.
    """
    figure, axes = panels([picture] * len(units), f"Sampling points through {_series(layers)}", below=0.1)
    for axis, (title, place, points) in zip(axes, units, strict=True):
        axis.set_title(title, fontsize=TITLE)
        size = 30 if len(points) <= 9 else 14 if len(points) <= 81 else 5
        axis.scatter(
            points[:, 1], points[:, 0], s=size, c=RED, alpha=0.75, linewidths=0, rasterized=len(points) > _RASTERED
        )
        axis.scatter(place[1], place[0], s=90, c=GREEN, edgecolors="white", linewidths=1.2, zorder=3)
    count = max((len(points) for _, _, points in units), default=0)
    noun = "filters" if len(layers) > 1 else "filter"
    marks = [
        mark(GREEN, f"activation unit of {layers[0]}", 9),
        mark(RED, f"sampling points of {len(layers)} stacked {noun} (up to {count})", 5),
    ]
    legend(figure, marks)
    return figure


def rois(
    picture: Image.Image, regions: Sequence[tuple[str, Array, Array]], poolings: str = "deformable RoI pooling"
) -> Figure:
    """A panel for each RoI: its box and its shifted bins.

    Args:
        picture: under all of them.
        regions: title, box (4,), bins (k, k, 4) of each RoI.
        poolings: what the bins are of.
    """
    figure, axes = panels([picture] * len(regions), f"Shifted bins of {poolings}", below=0.1)
    for axis, (title, box, bins) in zip(axes, regions, strict=True):
        axis.set_title(title, fontsize=TITLE)
        for bin_box in bins.reshape(-1, 4):
            axis.add_patch(rectangle(bin_box, RED, 0.9, alpha=0.9))
        axis.add_patch(rectangle(box, YELLOW, 2.4))
    side = regions[0][2].shape[0] if regions else 0
    marks: list[Any] = [
        Patch(fill=False, edgecolor=YELLOW, linewidth=2.4, label="input RoI"),
        Patch(fill=False, edgecolor=RED, label=f"its {side}x{side} bins"),
    ]
    legend(figure, marks)
    return figure


def arrows(picture: Image.Image, fields: Sequence[tuple[str, Array, Array]]) -> Figure:
    """A panel for each layer: the field of its offsets.

    Args:
        picture: under all of them.
        fields: name; places (h, w, 2); offsets (h, w, 2) in the image's pixels, of each layer.
    """
    thinned = [(name, *_thinned(places, shifts)) for name, places, shifts in fields]
    spacing = min(_spacing(places) for _, places, _ in thinned)
    longest = max(float(np.quantile(np.hypot(*shifts.reshape(-1, 2).T), 0.98)) for _, _, shifts in thinned)
    factor = _round_factor(0.95 * spacing / longest) if longest > 0 else 1.0
    lengths = Normalize(0, max(longest, 1e-9), clip=True)
    drawn = "" if factor == 1 else f", drawn {factor:g} times as long"
    figure, axes = panels([faded(picture)] * len(fields), f"Offsets, mean over a filter's points{drawn}", beside=0.8)
    for axis, (name, places, shifts) in zip(axes, thinned, strict=True):
        axis.set_title(name, fontsize=TITLE)
        axis.quiver(
            places[..., 1],
            places[..., 0],
            shifts[..., 1] * factor,
            shifts[..., 0] * factor,
            np.hypot(shifts[..., 0], shifts[..., 1]),
            angles="xy",
            scale_units="xy",
            scale=1,
            norm=lengths,
            cmap=_ARROWS,
            width=0.007,
            headwidth=4,
            headlength=4.5,
            headaxislength=4,
            minlength=0.6,
        )
    colour_scale(figure, axes, lengths, _ARROWS, "pixels of the image", clipped=True)
    return figure


def heat(
    picture: Image.Image, fields: Sequence[tuple[str, tuple[float, float, float, float], Array]], boxes: Array
) -> Figure:
    """A panel for each layer: its effective dilation over its own, 1 in the middle of the colours.

    Args:
        picture: under all of them.
        fields: name; left, right, bottom and top edge of the map; its ratios (h, w), of each layer.
        boxes: (n, 4), outlined.
    """
    figure, axes = panels([faded(picture)] * len(fields), "Effective dilation", beside=0.8)
    low, high = min(float(v.min()) for *_, v in fields), max(float(v.max()) for *_, v in fields)
    colours = TwoSlopeNorm(1, min(low, 0.9), max(high, 1.1))  # the layer's own dilation has the colour in the middle
    for axis, (name, edges, values) in zip(axes, fields, strict=True):
        axis.set_title(name, fontsize=TITLE)
        limits = axis.get_xlim(), axis.get_ylim()
        axis.imshow(values, extent=edges, norm=colours, cmap="coolwarm", alpha=0.62, interpolation="nearest")
        axis.set(xlim=limits[0], ylim=limits[1])
        for box in boxes:
            axis.add_patch(rectangle(box, "white", 1.2))
    colour_scale(figure, axes, colours, "coolwarm", "times the layer's own dilation")
    return figure


def _series(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _thinned(places: Array, shifts: Array) -> tuple[Array, Array]:
    """Every n-th unit along both axes, so that the arrows do not overlap."""
    every = max(1, -(-max(places.shape[:2]) // _MOST_ARROWS))
    start = (every - 1) // 2
    return places[start::every, start::every], shifts[start::every, start::every]


def _spacing(places: Array) -> float:
    steps = [np.abs(np.diff(places[..., axis], axis=axis)) for axis in (0, 1)]
    return float(min((step.min() for step in steps if step.size), default=1.0))


def _round_factor(factor: float) -> float:
    """Round a factor down to 1, 2 or 5 times a power of ten; from 1/2 to 1 it becomes 1."""
    if 0.5 <= factor < 2:
        return 1.0
    power = 10.0 ** np.floor(np.log10(factor))
    return float(next(step * power for step in (5, 2, 1) if step * power <= factor * (1 + 1e-9)))
