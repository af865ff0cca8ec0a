"""Tracks the grids of maps through the operators that a forward pass calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from dcnlab.ablations.analysis.grid import Grid, Pair


@dataclass(frozen=True)
class Origin:
    """The grid of a map, and the deformable layers that it came through."""

    grid: Grid
    through: tuple[int, ...]
    """Positions in the list of deformable layers, the first of the network first."""


class GridTracking(TorchDispatchMode):
    """Tracks the grid of every map from operator to operator; `known` lacks tensors that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.known: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for output in result if isinstance(result, tuple | list) else [result]:
            if isinstance(output, Tensor) and output.ndim == 4:
                origin = self._origin(func, args, kwargs, output)
                if origin is not None:
                    self.known[output] = origin
                elif output in self.known:
                    del self.known[output]
        return result

    def _origin(self, func: Any, args: Any, kwargs: Any, output: Tensor) -> Origin | None:
        name = func._schema.name.rpartition("::")[2]
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        origins = [
            (value, self.known[value])
            for argument in given.values()
            for value in (argument if isinstance(argument, tuple | list) else [argument])
            if isinstance(value, Tensor) and value in self.known
        ]
        if not origins:
            return None
        input, origin = origins[0]
        step = _step(name, given, input, output)
        if step is not None:
            return Origin(origin.grid.step(*step), origin.through)
        same = [origin for value, origin in origins if value.shape[-2:] == output.shape[-2:]]
        # max takes the first of equals
        return max(same, key=lambda origin: len(origin.through)) if same and name not in _MOVING else None


_MOVING = ("permute", "transpose", "flip", "roll", "grid_sampler_2d", "cudnn_grid_sampler", "deform_conv2d")
"""Operators that keep the size of a map but move its content; deform_conv2d is one outside our layers."""


_POOLING = ("max_pool2d_with_indices", "avg_pool2d", "max_pool2d", "mkldnn_max_pool2d", "quantized_max_pool2d")


def _step(name: str, given: dict[str, Any], input: Tensor, output: Tensor) -> tuple[Pair, Pair] | None:
    """Stride and first centre of the operators that make another grid; None for those that do not."""
    if name == "convolution":
        stride, padding, dilation = (_pair(given[key]) for key in ("stride", "padding", "dilation"))
        kernel = _pair(given["weight"].shape[-2:])
        first = first_centre(kernel, padding, dilation)
        if given["transposed"]:
            return (1 / stride[0], 1 / stride[1]), (-first[0] / stride[0], -first[1] / stride[1])
        return stride, first
    if name in _POOLING:
        kernel = _pair(given["kernel_size"])
        stride = _pair(given.get("stride") or kernel)
        return stride, first_centre(kernel, _pair(given.get("padding", 0)), _pair(given.get("dilation", 1)))
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


def first_centre(kernel: Sequence[float], padding: Sequence[float], dilation: Sequence[float]) -> Pair:
    """Centre of an operator's first window, on its input."""
    y, x = (d * (k - 1) / 2 - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    return y, x


def _pair(value: Any) -> Pair:
    numbers = list(value) if isinstance(value, list | tuple | torch.Size) else [value]
    return float(numbers[0]), float(numbers[-1])
