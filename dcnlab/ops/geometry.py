"""The sizes of a deformable convolution, derived once from its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of one call, in the order of the definitions: pairs are (y, x)."""

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int

    @classmethod
    def of(
        cls,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> ConvGeometry:
        """Read the sizes off arguments that :func:`dcnlab.ops.deform_conv2d` has checked."""
        kernel = (weight.shape[2], weight.shape[3])
        batch, channels, height, width = input.shape
        return cls(
            batch,
            channels,
            height,
            width,
            weight.shape[0],
            offset.shape[2],
            offset.shape[3],
            kernel,
            (stride[0], stride[1]),
            (padding[0], padding[1]),
            (dilation[0], dilation[1]),
            channels // weight.shape[1],
            offset.shape[1] // (2 * kernel[0] * kernel[1]),
        )

    @property
    def taps(self) -> int:
        """Sampling points of one filter."""
        return self.kernel[0] * self.kernel[1]

    @property
    def group_filters(self) -> int:
        """Output channels of one convolution group."""
        return self.out_channels // self.groups

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch: rows of the columns matrix."""
        return self.batch * self.out_height * self.out_width

    def segments(self, longest: int) -> list[tuple[int, int, int, int]]:
        """Runs of channels within one convolution group and one offset group, at most `longest` long.

        Returns:
            (first channel, length, offset group, column at tap 0) of each run, in the order of the channels. A row of
            columns is laid out group by group, tap by tap, channel by channel.
        """
        per_group, per_offset = self.channels // self.groups, self.channels // self.offset_groups
        runs, first = [], 0
        while first < self.channels:
            group, offset_group = first // per_group, first // per_offset
            last = min((group + 1) * per_group, (offset_group + 1) * per_offset, first + longest)
            runs.append((first, last - first, offset_group, group * per_group * self.taps + first % per_group))
            first = last
        return runs
