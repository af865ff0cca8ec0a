"""Traces the sampling locations of stacked deformable layers back to pixels of the image.

A map's units lie on a grid over the image, which every convolution and pooling on the way makes coarser and may shift.
The grid is tracked through the operators that a forward pass calls, so any network can be traced, whatever its strides,
dilations, paddings and residual branches. Where branches join, the branch with more deformable layers is tracked; of
equal ones the first, which is a residual sum's main branch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.ablations.analysis.grid import Grid
from dcnlab.ablations.analysis.grid_tracking import GridTracking, Origin, first_centre
from dcnlab.io.errors import ConfigError
from dcnlab.models.deeplab import DeepLab
from dcnlab.models.detector import Detector
from dcnlab.models.image_batch import pad_images
from dcnlab.nn import ActiveConv2d, DeformConv2d
from dcnlab.nn.padding import pads


@dataclass(frozen=True)
class DeformedLayer:
    """A deformable convolution in one forward pass: its geometry, its offsets and the grids of its maps."""

    name: str
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Above and at the left."""
    dilation: tuple[int, int]
    offset: Tensor
    """(N, 2 * groups * kh * kw, Ho, Wo), y before x, in pixels of the input map."""
    input: Grid
    input_size: tuple[int, int]
    output: Grid
    below: tuple[int, ...]
    """Deformable layers that the input came through, the first of the network first: positions in `observe`'s list."""

    def sampling_points(self, units: Tensor, image: int = 0) -> Tensor:
        """Where the filter looks for units of the output.

        Args:
            units: (n, 2), y before x, on the output map. A position between units takes the offsets of the nearest one.
            image: of the batch.

        Returns:
            (n, groups * kh * kw, 2) float64, y before x, on the input map.
        """
        units = units.to(self.offset.device, torch.float64)
        height, width = self.offset.shape[-2:]
        row, column = (units[:, axis].round().long().clamp(0, size - 1) for axis, size in ((0, height), (1, width)))
        kh, kw = self.kernel_size
        shift = self.offset[image, :, row, column].T.double().reshape(len(units), -1, kh * kw, 2)
        taps = torch.cartesian_prod(torch.arange(kh), torch.arange(kw)).to(shift)
        first = units * units.new_tensor(self.stride) - units.new_tensor(self.padding)
        return (first[:, None, None] + taps * taps.new_tensor(self.dilation) + shift).flatten(1, 2)


def observe(network: nn.Module, images: Tensor) -> list[DeformedLayer]:
    """Run a network and note what its deformable convolutions did, in the order of the pass.

    Args:
        network: takes the images alone; in evaluation mode.
        images: (N, C, H, W).

    Raises:
        ConfigError: before a deformable layer comes an operator, such as a spatial transformer's resampling, after
            which positions of the map have no fixed pixel; one line.
    """
    seen: list[DeformedLayer] = []
    tracking = GridTracking()

    def note(name: str, layer: Any, input: Tensor, output: Tensor) -> None:
        origin = tracking.known.get(input)
        if origin is None:
            raise ConfigError(f"{name} is deformable, but positions of its input have no fixed pixel of the image")
        left, _, top, _ = pads(layer, input)
        grid = origin.grid.step(layer.stride, first_centre(layer.kernel_size, (top, left), layer.dilation))
        if isinstance(layer, ActiveConv2d):  # its offsets are the same at every position, as a plain layer's
            tracking.known[output] = Origin(grid, origin.through)
            return
        deformed = DeformedLayer(
            name=name,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=(top, left),
            dilation=layer.dilation,
            offset=layer.offsets(input)[0],
            input=origin.grid,
            input_size=(input.shape[2], input.shape[3]),
            output=grid,
            below=origin.through,
        )
        seen.append(deformed)
        tracking.known[output] = Origin(grid, (*origin.through, len(seen) - 1))

    handles = [
        module.register_forward_hook(lambda layer, inputs, output, name=name: note(name, layer, inputs[0], output))
        for name, module in network.named_modules()
        if isinstance(module, DeformConv2d | ActiveConv2d)
    ]
    try:
        with torch.no_grad(), tracking:
            tracking.known[images] = Origin(Grid(), ())
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def observe_image(model: nn.Module, image: Tensor) -> list[DeformedLayer]:
    """`observe` what one of this project's networks does with an image (3, H, W); layers are named within its backbone.

    Of a detector and of DeepLab only the backbone is run: it has all deformable layers but the RoI pooling.
    """
    if isinstance(model, Detector):
        return observe(model.backbone, pad_images([image], model.stride).tensors)  # type: ignore[arg-type]  # all have one
    return observe(model.backbone if isinstance(model, DeepLab) else model, image[None])


def stack(layers: Sequence[DeformedLayer], count: int | None = None) -> list[DeformedLayer]:
    """The longest chain of deformable layers in which each reads the output of the next, the last layer first.

    Args:
        layers: of one forward pass, as `observe` gives them.
        count: number of its last layers; None: all.
    """
    if not layers:
        return []
    last = max(range(len(layers)), key=lambda at: (len(layers[at].below), at))
    chain = [layers[at] for at in (last, *reversed(layers[last].below))]
    return chain[:count]


def trace(chain: Sequence[DeformedLayer], unit: Sequence[int], image: int = 0) -> list[Tensor]:
    """The sampling points of a stack of filters for one activation unit (paper, figures 5 and 6).

    The sampling points of a layer are positions on the output of the deformable layer below it. The nearest unit
    there gives the offsets, because a position between units has none. Plain convolutions and poolings in between
    keep a position, by their centre. A point outside the map, where zeros are read, is not traced further.

    Args:
        chain: deformable layers, the last of the network first, as `stack` gives them.
        unit: row and column on the output map of the first of them.
        image: of the batch.

    Returns:
        For each layer (n, 2) float64, y before x, pixels of the image, a pixel's centre being its index; of filters of
        3x3 and one offset group 9, 81, 729, ... points, without those beyond the map.
    """
    if not chain:
        return []
    positions = chain[0].offset.new_tensor([list(unit)], dtype=torch.float64)
    levels = []
    for layer, below in itertools.zip_longest(chain, chain[1:]):
        points = layer.sampling_points(positions, image).flatten(0, 1)
        limits = points.new_tensor(layer.input_size)
        points = points[((points > -1) & (points < limits)).all(1)]  # NaN is in no map either
        pixels = layer.input.to_image(points)
        levels.append(pixels)
        if below is not None:
            positions = below.output.from_image(pixels)
    return levels


def nearest_unit(layer: DeformedLayer, pixel: Sequence[float]) -> tuple[int, int]:
    """Row and column of the layer's output unit that is centred nearest to a pixel (y, x)."""
    height, width = layer.offset.shape[-2:]
    row, column = layer.output.from_image(torch.tensor(pixel, dtype=torch.float64)).round().long().tolist()
    return min(max(row, 0), height - 1), min(max(column, 0), width - 1)
