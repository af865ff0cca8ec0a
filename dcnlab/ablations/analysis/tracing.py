"""Traces the sampling locations of stacked deformable layers back to pixels of the image.

A map's units lie on a grid over the image, which every convolution and pooling on the way makes coarser and may shift.
It is followed through the operators that a forward pass really calls, so it holds for any network: strides, dilations,
paddings and residual branches are as they are. Where branches join, the one with more deformable layers is followed, of
equals the first (a residual sum's main branch).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from dcnlab.io.errors import ConfigError
from dcnlab.models.deeplab import DeepLab
from dcnlab.models.detector import Detector
from dcnlab.models.image_batch import pad_images
from dcnlab.nn import ActiveConv2d, DeformConv2d

Pair = tuple[float, float]
"""Of the vertical and the horizontal axis."""


@dataclass(frozen=True)
class Grid:
    """Where a map's units are centred in the image: unit i at pixel scale * i + shift; a pixel's centre is its index.

    So the first pixel's middle is 0 and its edges are -1/2 and 1/2, as convolutions count; boxes, whose coordinates
    start at the edge, are half a pixel further on.
    """

    scale: Pair = (1.0, 1.0)
    shift: Pair = (0.0, 0.0)

    def to_image(self, positions: Tensor) -> Tensor:
        """Pixels (..., 2) of positions (..., 2) on the map, y before x."""
        return positions * positions.new_tensor(self.scale) + positions.new_tensor(self.shift)

    def from_image(self, pixels: Tensor) -> Tensor:
        """Positions (..., 2) on the map of pixels (..., 2), y before x."""
        return (pixels - pixels.new_tensor(self.shift)) / pixels.new_tensor(self.scale)

    def step(self, stride: Sequence[float], first: Sequence[float]) -> Grid:
        """The grid of a map made of this one, whose unit i is centred here at stride * i + first."""
        shift = (self.shift[0] + self.scale[0] * first[0], self.shift[1] + self.scale[1] * first[1])
        return Grid((self.scale[0] * stride[0], self.scale[1] * stride[1]), shift)


@dataclass(frozen=True)
class DeformedLayer:
    """What a deformable convolution did in one forward pass."""

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
        ConfigError: on the way to a deformable layer something is done to the image after which places have no fixed
            relation to it, such as a spatial transformer's resampling; one line.
    """
    seen: list[DeformedLayer] = []
    following = _Following()

    def note(name: str, layer: Any, input: Tensor, output: Tensor) -> None:
        way = following.known.get(input)
        if way is None:
            raise ConfigError(f"{name} is deformable, but it cannot be told which pixels its input's places stand for")
        left, _, top, _ = layer._reversed_padding_repeated_twice
        grid = way.grid.step(layer.stride, _first(layer.kernel_size, (top, left), layer.dilation))
        if isinstance(layer, ActiveConv2d):  # the same offsets everywhere: a plain layer of another shape
            following.known[output] = _Way(grid, way.through)
            return
        did = DeformedLayer(
            name=name,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=(top, left),
            dilation=layer.dilation,
            offset=layer.offsets(input)[0],
            input=way.grid,
            input_size=(input.shape[2], input.shape[3]),
            output=grid,
            below=way.through,
        )
        seen.append(did)
        following.known[output] = _Way(grid, (*way.through, len(seen) - 1))

    handles = [
        module.register_forward_hook(lambda layer, inputs, output, name=name: note(name, layer, inputs[0], output))
        for name, module in network.named_modules()
        if isinstance(module, DeformConv2d | ActiveConv2d)
    ]
    try:
        with torch.no_grad(), following:
            following.known[images] = _Way(Grid(), ())
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def observe_image(model: nn.Module, image: Tensor) -> list[DeformedLayer]:
    """`observe` what one of this project's networks does with an image (3, H, W); layers are named within its backbone.

    Of a detector and of DeepLab the backbone alone is run, for all that is deformable is there, but for the pooling.
    """
    if isinstance(model, Detector):
        return observe(model.backbone, pad_images([image], model.stride).tensors)  # type: ignore[arg-type]  # all have one
    return observe(model.backbone if isinstance(model, DeepLab) else model, image[None])


def stack(layers: Sequence[DeformedLayer], count: int | None = None) -> list[DeformedLayer]:
    """The longest chain of deformable layers that look at each other's output, the last one first.

    Args:
        layers: of one forward pass, as `observe` gives them.
        count: as many of its last ones; None: all.
    """
    if not layers:
        return []
    last = max(range(len(layers)), key=lambda at: (len(layers[at].below), at))
    chain = [layers[at] for at in (last, *reversed(layers[last].below))]
    return chain[:count]


def trace(chain: Sequence[DeformedLayer], unit: Sequence[int], image: int = 0) -> list[Tensor]:
    """The sampling points of a stack of filters for one activation unit (paper, figures 5 and 6).

    The points of the upper layer are positions on the output of the next one below, whose offsets are those of the
    nearest unit, as a position between units has none; and so on down. Layers between the two keep the
    position, a plain convolution or pooling by its centre. A point beyond the map, where zeros are read, has nothing
    below it and ends there.

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


@dataclass(frozen=True)
class _Way:
    """How a map came to be."""

    grid: Grid
    through: tuple[int, ...]


class _Following(TorchDispatchMode):
    """Follows grids from operator to operator; tensors without places on the image are not in `known`."""

    def __init__(self) -> None:
        super().__init__()
        self.known: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for output in result if isinstance(result, tuple | list) else [result]:
            if isinstance(output, Tensor) and output.ndim == 4:
                way = self._way(func, args, kwargs, output)
                if way is not None:
                    self.known[output] = way
                elif output in self.known:
                    del self.known[output]
        return result

    def _way(self, func: Any, args: Any, kwargs: Any, output: Tensor) -> _Way | None:
        name = func._schema.name.rpartition("::")[2]
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        ways = [
            (value, self.known[value])
            for argument in given.values()
            for value in (argument if isinstance(argument, tuple | list) else [argument])
            if isinstance(value, Tensor) and value in self.known
        ]
        if not ways:
            return None
        input, way = ways[0]
        step = _step(name, given, input, output)
        if step is not None:
            return _Way(way.grid.step(*step), way.through)
        same = [way for value, way in ways if value.shape[-2:] == output.shape[-2:]]
        # max takes the first of equals
        return max(same, key=lambda way: len(way.through)) if same and name not in _MOVING else None


_MOVING = ("permute", "transpose", "flip", "roll", "grid_sampler_2d", "cudnn_grid_sampler", "deform_conv2d")
"""Operators that keep the size of a map and yet move what is on it; the last where no layer of ours calls it."""

_POOLING = ("max_pool2d_with_indices", "avg_pool2d", "max_pool2d", "mkldnn_max_pool2d", "quantized_max_pool2d")


def _step(name: str, given: dict[str, Any], input: Tensor, output: Tensor) -> tuple[Pair, Pair] | None:
    """Stride and first centre of the operators that make another grid; None for those that do not."""
    if name == "convolution":
        stride, padding, dilation = (_pair(given[key]) for key in ("stride", "padding", "dilation"))
        kernel = _pair(given["weight"].shape[-2:])
        first = _first(kernel, padding, dilation)
        if given["transposed"]:
            return (1 / stride[0], 1 / stride[1]), (-first[0] / stride[0], -first[1] / stride[1])
        return stride, first
    if name in _POOLING:
        kernel = _pair(given["kernel_size"])
        stride = _pair(given.get("stride") or kernel)
        return stride, _first(kernel, _pair(given.get("padding", 0)), _pair(given.get("dilation", 1)))
    if name.startswith("upsample_") or name.startswith("_upsample_"):
        ratio = [there / here for there, here in zip(input.shape[-2:], output.shape[-2:], strict=True)]
        if given.get("align_corners"):
            sizes = zip(input.shape[-2:], output.shape[-2:], strict=True)
            ratio = [(there - 1) / max(here - 1, 1) for there, here in sizes]
            return (ratio[0], ratio[1]), (0.0, 0.0)
        return (ratio[0], ratio[1]), ((ratio[0] - 1) / 2, (ratio[1] - 1) / 2)
    if name in ("constant_pad_nd", "reflection_pad2d", "replication_pad2d"):
        pad = given["pad"] if name == "constant_pad_nd" else given["padding"]
        return (1.0, 1.0), (-float(pad[2]) if len(pad) > 2 else 0.0, -float(pad[0]))
    if name == "slice" and given.get("dim", 0) % 4 >= 2:
        start, every = given.get("start") or 0, float(given.get("step", 1))
        skipped = float(start + input.shape[given["dim"]] if start < 0 else start)
        return ((every, 1.0), (skipped, 0.0)) if given["dim"] % 4 == 2 else ((1.0, every), (0.0, skipped))
    return None


def _first(kernel: Sequence[float], padding: Sequence[float], dilation: Sequence[float]) -> Pair:
    """Centre of an operator's first window, on its input."""
    y, x = (d * (k - 1) / 2 - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    return y, x


def _pair(value: Any) -> Pair:
    numbers = list(value) if isinstance(value, list | tuple | torch.Size) else [value]
    return float(numbers[0]), float(numbers[-1])
