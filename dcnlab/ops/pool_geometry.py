"""The sizes of a deformable RoI pooling, derived once from its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MAX_SAMPLES = 1 << 20
"""Samples of one bin along one axis: beyond it, float32 cannot tell neighbouring samples apart.

Compiled code on disk holds it: who changes it touches `cpu/roi_pool_kernels.py` too.
"""


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

    @classmethod
    def of_ps_roi_pool(
        cls,
        input: Tensor,
        boxes: Tensor,
        offset: Tensor | None,
        output_size: int,
        spatial_scale: float,
        group_size: int,
        part_size: int,
        samples_per_bin: int,
        gamma: float,
    ) -> PoolGeometry:
        """Read the sizes off arguments that :func:`dcnlab.ops.deform_ps_roi_pool` has checked."""
        batch, channels, height, width = input.shape
        return cls(
            True,
            batch,
            channels // group_size**2,
            height,
            width,
            boxes.shape[0],
            output_size,
            output_size,
            group_size,
            1 if offset is None else offset.shape[1] // 2,
            part_size,
            part_size,
            samples_per_bin,
            spatial_scale,
            gamma,
        )

    @classmethod
    def of_roi_pool(
        cls,
        input: Tensor,
        boxes: Tensor,
        offset: Tensor | None,
        output_size: tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        gamma: float,
    ) -> PoolGeometry:
        """Read the sizes off arguments that :func:`dcnlab.ops.deform_roi_pool` has checked."""
        batch, channels, height, width = input.shape
        return cls(
            False,
            batch,
            channels,
            height,
            width,
            boxes.shape[0],
            *(output_size[0], output_size[1]),
            1,
            1,
            *(output_size[0], output_size[1]),
            sampling_ratio,
            spatial_scale,
            gamma,
        )

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
