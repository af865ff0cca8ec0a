"""The arguments of a deformable convolution, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Each = TypeVar("Each")


class ConvArguments(NamedTuple):
    """The arguments of :func:`dcnlab.ops.deform_conv2d`, in its order, which all layers have; pairs are (y, x)."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    mask: Tensor | None

    @property
    def geometry(self) -> ConvGeometry:
        """The sizes, read off checked arguments."""
        batch, channels, height, width = self.input.shape
        out_channels, group_channels, *kernel = self.weight.shape
        out_height, out_width = self.offset.shape[2:]
        return ConvGeometry(
            batch,
            channels,
            height,
            width,
            out_channels,
            out_height,
            out_width,
            (kernel[0], kernel[1]),
            (self.stride[0], self.stride[1]),
            (self.padding[0], self.padding[1]),
            (self.dilation[0], self.dilation[1]),
            channels // group_channels,
            self.offset.shape[1] // (2 * kernel[0] * kernel[1]),
        )


class ConvGradients(NamedTuple, Generic[Each]):
    """Something for each argument of a deformable convolution that has a gradient."""

    input: Each
    offset: Each
    weight: Each
    bias: Each
    mask: Each


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
