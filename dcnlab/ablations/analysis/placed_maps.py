"""Effective dilation of a layer over an image, and its means over annotated boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcnlab.ablations.analysis.tracing import DeformedLayer
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import box_dilation
from dcnlab.metrics.dilation_sizes import SIZES
from dcnlab.metrics.effective_dilation import effective_dilation, size_of_positions


@dataclass(frozen=True)
class Truth:
    """The annotated boxes of one image, in pixels of its file."""

    height: int
    width: int
    boxes: Tensor
    areas: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class PlacedMap:
    """Effective dilation of one layer over one image, and where its filters' centres lie in pixels of the file."""

    values: Tensor
    """(H, W), pixels of the layer's map."""
    plain: float
    """What the layer has without offsets, in the same pixels."""
    y: Tensor
    x: Tensor
    enlarged: tuple[float, float]
    """Pixels of the network's input to one of the file, vertical and horizontal."""


def place(layer: DeformedLayer, image: Tensor, truth: Truth, index: int) -> PlacedMap:
    """One image's effective dilation in one layer."""
    values = effective_dilation(layer.offset, layer.kernel_size, layer.dilation)[0].cpu()
    if not values.isfinite().all():
        raise ConfigError(f"the training diverged: {layer.name} has offsets that are not finite, in test image {index}")
    enlarged = (image.shape[1] / truth.height, image.shape[2] / truth.width)
    y, x = (
        (layer.output.scale[axis] * torch.arange(size, dtype=torch.float64) + layer.output.shift[axis] + 0.5)
        / enlarged[axis]
        for axis, size in enumerate(values.shape)
    )
    unmoved = torch.zeros_like(layer.offset[:1, :, :1, :1])
    return PlacedMap(values, float(effective_dilation(unmoved, layer.kernel_size, layer.dilation)), y, x, enlarged)


def boxes_of(maps: Mapping[str, list[PlacedMap]], truth: Sequence[Truth]) -> box_dilation.BoxDilation:
    """Each box's mean effective dilation in its image, and over the images that `other_images` gives it to."""
    hosts = box_dilation.other_images(len(truth)).T
    image = np.array([at for at, of_image in enumerate(truth) for _ in range(int((~of_image.crowd).sum()))], dtype=int)
    area = np.concatenate([np.zeros(0), *(of_image.areas[~of_image.crowd].double().numpy() for of_image in truth)])
    real, moved, background = [], [], []
    for of_layer in maps.values():
        real.append([_means(of_layer[at], of_image, of_image) for at, of_image in enumerate(truth)])
        moved.append([_moved(of_layer, truth, at, hosts[at]) for at in range(len(truth))])
        background.append([_background(placed, of_image) for placed, of_image in zip(of_layer, truth, strict=True)])
    plain = np.array([of_layer[0].plain for of_layer in maps.values()])
    return box_dilation.BoxDilation(
        np.array(list(maps)),
        plain,
        image,
        area,
        np.array([np.concatenate(of_layer) for of_layer in real]),
        np.array([np.concatenate(of_layer) for of_layer in moved]),
        np.array(background, dtype=np.float64),
    )


def _moved(maps: Sequence[PlacedMap], truth: Sequence[Truth], at: int, hosts: np.ndarray) -> np.ndarray:
    """Mean dilation of an image's boxes placed on other images: (boxes,); NaN for a box without a filter's centre."""
    total = np.zeros(int((~truth[at].crowd).sum()))
    count = np.zeros_like(total)
    for host in hosts.tolist():
        means = _means(maps[host], truth[at], truth[host])
        total += np.nan_to_num(means)
        count += ~np.isnan(means)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _means(placed: PlacedMap, boxes: Truth, image: Truth) -> np.ndarray:
    """Mean over the filters in each box except crowds, scaled from its image to the image of the map; NaN if none."""
    scale = torch.tensor([image.width / boxes.width, image.height / boxes.height] * 2, dtype=torch.float64)
    x1, y1, x2, y2 = (boxes.boxes[~boxes.crowd].double() * scale).T[:, :, None]
    rows = ((placed.y >= y1) & (placed.y < y2)).double()
    columns = ((placed.x >= x1) & (placed.x < x2)).double()
    total = ((rows @ placed.values.double()) * columns).sum(1)
    count = rows.sum(1) * columns.sum(1)
    return torch.where(count > 0, total / count, torch.nan).numpy()


def _background(placed: PlacedMap, truth: Truth) -> float:
    """Mean over the filters of an image that lie in no box; crowds count as boxes."""
    sizes = size_of_positions(placed.y, placed.x, truth.boxes, truth.areas)
    inside = ((placed.y >= 0) & (placed.y < truth.height))[:, None] & ((placed.x >= 0) & (placed.x < truth.width))
    return float(placed.values[inside & (sizes == SIZES.index("background"))].double().mean())
