"""The arguments of the deformable RoI poolings, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Each = TypeVar("Each")

MAX_SAMPLES = 1 << 20
"""Samples of one bin along one axis: beyond it, neighbouring samples are equal in float32.

Compiled code on disk holds it: who changes it touches `cpu/roi_bins.py` too.
"""


class PSRoIPoolArguments(NamedTuple):
    """The arguments of :func:`dcnlab.ops.deform_ps_roi_pool`, in its order, which all layers have."""

    input: Tensor
    boxes: Tensor
    offset: Tensor | None
    output_size: int
    spatial_scale: float
    group_size: int
    part_size: int
    samples_per_bin: int
    gamma: float

    @property
    def geometry(self) -> PoolGeometry:
        """The sizes, read off checked arguments."""
        batch, channels, height, width = self.input.shape
        return PoolGeometry(
            position_sensitive=True,
            batch=batch,
            channels=channels // self.group_size**2,
            height=height,
            width=width,
            rois=self.boxes.shape[0],
            out_height=self.output_size,
            out_width=self.output_size,
            group_size=self.group_size,
            classes=1 if self.offset is None else self.offset.shape[1] // 2,
            part_height=self.part_size,
            part_width=self.part_size,
            samples=self.samples_per_bin,
            scale=self.spatial_scale,
            gamma=self.gamma,
        )


class RoIPoolArguments(NamedTuple):
    """The arguments of :func:`dcnlab.ops.deform_roi_pool`, in its order, which all layers have."""

    input: Tensor
    boxes: Tensor
    offset: Tensor | None
    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    gamma: float

    @property
    def geometry(self) -> PoolGeometry:
        """The sizes, read off checked arguments."""
        batch, channels, height, width = self.input.shape
        out_height, out_width = self.output_size
        return PoolGeometry(
            position_sensitive=False,
            batch=batch,
            channels=channels,
            height=height,
            width=width,
            rois=self.boxes.shape[0],
            out_height=out_height,
            out_width=out_width,
            group_size=1,
            classes=1,
            part_height=out_height,
            part_width=out_width,
            samples=self.sampling_ratio,
            scale=self.spatial_scale,
            gamma=self.gamma,
        )


PoolArguments = PSRoIPoolArguments | RoIPoolArguments


class PoolGradients(NamedTuple, Generic[Each]):
    """Something for each argument of a RoI pooling that has a gradient."""

    input: Each
    offset: Each


@dataclass(frozen=True)
class PoolGeometry:
    """Sizes of one call. Plain pooling is position-sensitive pooling with one group cell, one class, a part a bin."""

    position_sensitive: bool
    """Which rule places the samples: `deform_ps_roi_pool`'s, or `deform_roi_pool`'s."""
    batch: int
    channels: int
    """Output channels: input channels of one group cell."""
    height: int
    width: int
    rois: int
    out_height: int
    out_width: int
    group_size: int
    classes: int
    part_height: int
    part_width: int
    samples: int
    """Along one axis of a bin; 0: as many as the bin is pixels long, of `deform_roi_pool` only."""
    scale: float
    gamma: float

    @property
    def class_channels(self) -> int:
        """Output channels that share one class's offsets."""
        return self.channels // self.classes

    def by_cells(self, input: Tensor) -> Tensor:
        """(N, channels * group_size^2, H, W) -> (N, group_size, group_size, H, W, channels): a view if it can be."""
        g = self.group_size
        return input.reshape(self.batch, self.channels, g, g, self.height, self.width).permute(0, 2, 3, 4, 5, 1)

    def to_cells(self, input: Tensor) -> Tensor:
        """As `by_cells`, contiguous: a copy only if not so in memory."""
        return self.by_cells(input).contiguous()

    def from_cells(self, cells: Tensor) -> Tensor:
        """Elements by cells, in the order of `to_cells` -> (N, channels * group_size^2, H, W): a view if it can be."""
        g = self.group_size
        split = cells.view(self.batch, g, g, self.height, self.width, self.channels).permute(0, 5, 1, 2, 3, 4)
        return split.reshape(self.batch, self.channels * g * g, self.height, self.width)
