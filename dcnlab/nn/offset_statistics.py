"""How far a layer's offsets move its sampling locations: mean, extremes, and the fraction outside the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.nn.active_conv2d import ActiveConv2d
from dcnlab.nn.deform_conv2d import DeformConv2d
from dcnlab.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool
from dcnlab.nn.padding import pads

CONVOLUTIONS = (DeformConv2d, ActiveConv2d)
POOLINGS = (DeformRoIPool, DeformPSRoIPool)
FAR = 10
"""Limit of the mean offset where none is stated, in longer sides of the map. A limit of 1 would be too strict: on maps
of a few pixels a high learning rate exceeds it within steps, and the training still recovers."""


def learns_offsets(layer: nn.Module) -> bool:
    """Whether a layer has offsets that `OffsetStatistics` measures."""
    return isinstance(layer, CONVOLUTIONS + POOLINGS)


@dataclass(frozen=True)
class OffsetStatistics:
    """The offsets of a layer in one forward pass: in pixels of a convolution's map, in box sides for a pooling."""

    mean: Tensor
    """Mean length of the offsets."""
    max: Tensor
    """Length of the longest offset."""
    low: Tensor
    """Minimum over both axes."""
    high: Tensor
    """Maximum over both axes."""
    outside: Tensor | None
    """Percentage of a convolution's sampling locations outside its map. Those in the padding count, as a plain
    convolution has them too. None for poolings."""
    side: int | None
    """Longer side of a convolution's map, pixels; None for poolings."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: nn.Module, arguments: tuple[Any, ...]) -> OffsetStatistics:
        """Measure a layer in a forward pass.

        Args:
            layer: one of `CONVOLUTIONS` or `POOLINGS`.
            arguments: of its forward method.
        """
        if isinstance(layer, CONVOLUTIONS):
            [input] = arguments
            offset = layer.offsets(input)[0].float()
            pairs = offset.unflatten(1, (-1, 2))  # (N, groups * taps, (y, x), Ho, Wo)
            return cls._of_pairs(pairs, _percentage_outside(layer, input, pairs), max(input.shape[-2:]))
        assert isinstance(layer, POOLINGS)
        features, *_, boxes = arguments
        offset = layer.offsets(features, boxes).float() * layer.gamma
        return cls._of_pairs(offset.unflatten(1, (-1, 2)), None, None)

    @classmethod
    def _of_pairs(cls, pairs: Tensor, outside: Tensor | None, side: int | None) -> OffsetStatistics:
        if not pairs.numel():  # no boxes
            pairs = pairs.new_zeros(1, 1, 2, 1, 1)
        length = pairs.norm(dim=2)
        return cls(length.mean(), length.amax(), *pairs.aminmax(), outside, side)

    def exceeds(self, limit: float | None) -> Tensor:
        """Whether an offset is not finite, or a convolution's mean offset is over a limit.

        Args:
            limit: pixels; None is `FAR` times the longer side of the map.
        """
        wrong = ~(torch.isfinite(self.low) & torch.isfinite(self.high))
        return wrong if self.side is None else wrong | (self.mean > (FAR * self.side if limit is None else limit))

    def __str__(self) -> str:
        unit = "box sides" if self.side is None else f"pixels on a map of {self.side}"
        return f"from {float(self.low):.4g} to {float(self.high):.4g} {unit}, of mean length {float(self.mean):.4g}"


def _percentage_outside(conv: nn.Conv2d, input: Tensor, pairs: Tensor) -> Tensor:
    """Percentage of sampling locations in no pixel of the map.

    Args:
        conv: with its kernel, stride, padding and dilation.
        input: (N, C, H, W).
        pairs: offsets, (N, groups * taps, (y, x), Ho, Wo).
    """
    kernel, padding = conv.kernel_size, pads(conv, input)
    inside = torch.ones((), dtype=torch.bool, device=input.device)
    for axis, first in ((0, padding[2]), (1, padding[0])):
        taps = torch.arange(kernel[axis], device=input.device) * conv.dilation[axis] - first
        outputs = torch.arange(pairs.shape[3 + axis], device=input.device) * conv.stride[axis]
        # Taps lie row by row.
        base = taps.repeat_interleave(kernel[1]) if axis == 0 else taps.repeat(kernel[0])
        base = base.repeat(pairs.shape[1] // len(base))[:, None, None]
        location = pairs[:, :, axis] + base + (outputs[:, None] if axis == 0 else outputs)
        inside = inside & (location > -0.5) & (location < input.shape[2 + axis] - 0.5)
    return 100 * (1 - inside.float().mean())
