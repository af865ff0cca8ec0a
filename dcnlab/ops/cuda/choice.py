"""Whether a deformable convolution goes through the fused kernel or through columns in chunks: by measurement.

`fused.json` holds, for each device that `benchmarks/fused.py --rule` ran on, up to how many channels the fused kernel
was the faster one. A device without an entry takes the chunks.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dcnlab.ops.cuda import fused
from dcnlab.ops.geometry import ConvGeometry

VARIABLE = "DCNLAB_FUSED"
"""rule (the default): as measured; always: wherever the kernel can compute the call; never."""

RULE = Path(__file__).with_name("fused.json")


@dataclass(frozen=True)
class Crossover:
    """Where the fused kernel was faster at every shape measured, on one device in one dtype."""

    least_channels: int
    """Fewest channels, and fewest filters, measured."""
    most_channels: int
    """Up to so many channels, and so many filters, it was faster."""
    least_pixels: int
    """Output pixels of the smallest batch measured."""

    def covers(self, geometry: ConvGeometry) -> bool:
        """Whether a call lies within what was measured: 3x3 filters, one offset group."""
        g = geometry
        channels = (g.channels, g.out_channels)
        return (
            g.kernel == (3, 3)
            and g.offset_groups == 1
            and self.least_channels <= min(channels)
            and max(channels) <= self.most_channels
            and g.pixels >= self.least_pixels
        )


def serves(pixels: Tensor, filters: Tensor, geometry: ConvGeometry) -> bool:
    """Whether the fused kernel computes this call's output.

    The environment variable DCNLAB_FUSED says `rule`, `always` or `never`. Always means wherever it can: a dtype, a
    shape or a GPU that the kernel does not take goes through the chunks under `always` too.

    Args:
        pixels: (N, H, W, C), contiguous.
        filters: (F, taps * C), the weight.
        geometry: of the call.

    Raises:
        ValueError: the variable says anything else.
    """
    wanted = os.environ.get(VARIABLE, "rule")
    if wanted not in ("rule", "always", "never"):
        raise ValueError(f"{VARIABLE}={wanted}: it can be rule, always or never")
    if wanted == "never" or not fused.takes(pixels, filters, geometry):
        return False
    if pixels.is_cuda and _architecture(pixels.get_device()) < fused.LEAST_ARCHITECTURE:
        return False
    if wanted == "always":
        return True
    crossover = crossovers(_name(pixels.get_device())).get(str(pixels.dtype)) if pixels.is_cuda else None
    return crossover is not None and crossover.covers(geometry)


@cache
def crossovers(device: str) -> dict[str, Crossover]:
    """What was measured on a device, by dtype ("torch.bfloat16"); empty for a device without an entry."""
    found = json.loads(RULE.read_text(encoding="utf-8"))["devices"].get(device, {})
    return {dtype: Crossover(**fields) for dtype, fields in found.items()}


@cache
def _architecture(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _name(device: int) -> str:
    return torch.cuda.get_device_name(device)
