"""Choice between the fused kernel and columns in chunks.

`benchmarks/fused.py --rule` measures up to how many channels the fused kernel is the faster one on a device, and keeps
that in the user's cache folder. What was not measured there follows PRIOR.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dcnlab.ops.cuda import cache as disk
from dcnlab.ops.cuda import fused
from dcnlab.ops.geometry import ConvGeometry

VARIABLE = "DCNLAB_FUSED"
"""rule (the default): as measured, or else by PRIOR; always: wherever the kernel can compute the call; never."""

RULE = "fused.json"
"""The measurements' file in the cache folder: {"schema": 1, "devices": {NAME: {DTYPE: a Crossover or null}}}."""


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


PRIOR = {dtype: Crossover(8, 128, 1) for dtype in (torch.float16, torch.bfloat16)}
"""Before any measurement: with few channels a product is short, and columns that go to memory and back cost most."""


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
    if not pixels.is_cuda:
        return False
    crossover = crossovers(_name(pixels.get_device())).get(str(pixels.dtype), PRIOR.get(pixels.dtype))
    return crossover is not None and crossover.covers(geometry)


@cache
def crossovers(device: str) -> dict[str, Crossover | None]:
    """What was measured on a device, by dtype ("torch.bfloat16"); None where the fused kernel was never the faster one.

    A file that cannot be understood costs one warning, and counts as none.
    """
    content = disk.read(RULE)
    if content is None:
        return {}
    try:
        by_dtype = json.loads(content)["devices"].get(device, {})
        return {dtype: limits if limits is None else _crossover(limits) for dtype, limits in by_dtype.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(
            f"{disk.folder() / RULE} is not what benchmarks/fused.py --rule writes, and counts as absent: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return {}


def _crossover(limits: dict[str, int]) -> Crossover:
    """One entry of the file.

    Raises:
        TypeError: it has other fields, or values that are not integers.
    """
    if any(type(value) is not int for value in limits.values()):
        raise TypeError(f"{limits} must hold integers")
    return Crossover(**limits)


@cache
def _architecture(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _name(device: int) -> str:
    return torch.cuda.get_device_name(device)
