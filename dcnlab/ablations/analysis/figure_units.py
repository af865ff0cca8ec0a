"""The activation units of a figure: those asked for, or on a small object, a large one and the background."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dcnlab.ablations.analysis.figure_subjects import Subject
from dcnlab.ablations.analysis.tracing import DeformedLayer, nearest_unit
from dcnlab.io.errors import ConfigError

_NO_LABEL = 255


@dataclass(frozen=True)
class Unit:
    """An activation unit whose sampling locations are drawn."""

    title: str
    place: tuple[int, int]
    """Row and column on the layer's output."""


def units_of(subject: Subject, layer: DeformedLayer, at: Sequence[str], classes: Sequence[str]) -> list[Unit]:
    """The units to draw: those asked for, else on a small object, on a large one, and on the background.

    Args:
        subject: the image.
        layer: whose output's units they are.
        at: `x,y` each, in pixels of the file; if the image is a crop, of the crop.
        classes: names of the regions' classes.

    Raises:
        ConfigError: an `at` is not x,y, or is outside the image; one line.
    """
    if at:
        return [Unit(f"at {text}", nearest_unit(layer, _pixel(subject, text))) for text in at]
    if subject.regions is not None:
        return _in_regions(subject.regions, layer, classes)
    return _in_boxes(subject, layer)


def _pixel(subject: Subject, text: str) -> tuple[float, float]:
    """(y, x) on the image, a pixel's centre being its index."""
    height, width = subject.file_size or (subject.picture.height, subject.picture.width)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*,\s*([0-9]+(?:\.[0-9]+)?)\s*", text)
    if match is None:
        raise ConfigError(f"--at is {text!r}; it must be x,y, two numbers of pixels such as {width // 2},{height // 2}")
    x, y = float(match[1]), float(match[2])
    if x >= width or y >= height:
        raise ConfigError(f"--at is {text!r}, outside the image: x must be below {width}, y below {height}")
    scale = subject.picture.height / height, subject.picture.width / width
    return (y + 0.5) * scale[0] - 0.5, (x + 0.5) * scale[1] - 0.5


def _in_boxes(subject: Subject, layer: DeformedLayer) -> list[Unit]:
    boxes = subject.boxes.double()
    middle = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2 - 0.5
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort().tolist()
    if not order:
        pixel = ((subject.picture.height - 1) / 2, (subject.picture.width - 1) / 2)
        return [Unit("the image's middle", nearest_unit(layer, pixel))]
    kinds = {"object": order[0]} if len(order) == 1 else {"small object": order[0], "large object": order[-1]}
    units = [
        Unit(f"{kind}: {subject.names[at]}", nearest_unit(layer, middle[at].tolist())) for kind, at in kinds.items()
    ]
    # The background's unit is the one farthest from boxes and from the image's edge.
    pixels = _pixels_of_units(subject, layer)
    y, x = pixels[..., 0, None], pixels[..., 1, None]
    beside = torch.maximum(boxes[:, 0] - 0.5 - x, x - boxes[:, 2] + 0.5)
    above = torch.maximum(boxes[:, 1] - 0.5 - y, y - boxes[:, 3] + 0.5)
    away = torch.maximum(beside, above).amin(-1)
    rim = torch.stack((y[..., 0], x[..., 0], subject.picture.height - y[..., 0], subject.picture.width - x[..., 0]))
    free = torch.minimum(away, rim.amin(0) + 1)
    if free.max() > 0:
        row, column = divmod(int(free.argmax()), free.shape[1])
        units.append(Unit("background", (row, column)))
    return units


def _in_regions(regions: Tensor, layer: DeformedLayer, classes: Sequence[str]) -> list[Unit]:
    """The middles of the regions of the smallest class, the largest class, and the background or a medium class."""
    height, width = regions.shape
    rows, columns = _pixels_on(layer, height, width)
    seen = regions[rows.round().long()[:, None], columns.round().long()]
    counts = {label: int((seen == label).sum()) for label in seen.unique().tolist() if label != _NO_LABEL}
    background = [label for label in counts if classes[label] == "background"]
    ranked = sorted((label for label in counts if label not in background), key=lambda label: counts[label])
    between = background or ranked[len(ranked) // 2 : len(ranked) // 2 + 1]
    chosen = list(dict.fromkeys([*ranked[:1], *ranked[-1:], *between]))
    return [Unit(classes[label], _deepest(seen == label)) for label in chosen]


def _pixels_on(layer: DeformedLayer, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the units, in the image's pixels, kept within it."""
    rows, columns = layer.offset.shape[-2:]
    y, x = (
        torch.arange(count, dtype=torch.float64) * layer.output.scale[axis] + layer.output.shift[axis]
        for axis, count in enumerate((rows, columns))
    )
    return y[y < height].clamp(0, height - 1), x[x < width].clamp(0, width - 1)


def _pixels_of_units(subject: Subject, layer: DeformedLayer) -> Tensor:
    y, x = _pixels_on(layer, subject.picture.height, subject.picture.width)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)


def _deepest(mask: Tensor) -> tuple[int, int]:
    """The position of the mask that is farthest from its rim; pixels beyond the image are not in the mask."""
    left = mask.float()[None, None]
    while True:
        smaller = -functional.max_pool2d(-functional.pad(left, (1, 1, 1, 1)), 3, 1)
        if not smaller.any():
            break
        left = smaller
    row, column = divmod(int(left.argmax()), mask.shape[1])
    return row, column
