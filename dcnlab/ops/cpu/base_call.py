"""A call of deformable convolution on a CPU: what the paths with and without columns share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops import chunk_sizes
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu.deform_conv2d_callbacks import SHARED
from dcnlab.ops.cpu.deform_conv2d_kernels import Arrays, Sizes
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import memory_format

MIN_PIXELS = 16
"""Smallest part of a loop that a thread takes."""


def dtype_of(input: Tensor) -> torch.dtype:
    """What a call computes in: float64 for float64 input, else float32."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


class BaseCall:
    """Arguments in the form that all loops take.

    Args:
        arguments: checked.
        chunks: their sizes; None: the default.
        pixels: the input, its channels last, in the order that the loops take them in.
        segments: runs of channels or groups, as the loops take them.
        row_bytes: scratch of one output pixel.
    """

    def __init__(
        self,
        arguments: ConvArguments,
        chunks: CpuChunks | None,
        pixels: Tensor,
        segments: Sequence[tuple[int, ...]],
        row_bytes: int,
    ) -> None:
        g = self.geometry = arguments.geometry
        offset, mask = arguments.offset, arguments.mask
        self.weight, self.sizes = arguments.weight, chunk_sizes.CPU if chunks is None else chunks
        self.dtype = dtype_of(pixels)
        pixels = pixels.to(self.dtype).contiguous().view(-1)
        offsets = offset.to(self.dtype).flatten(2).contiguous()
        scale = self.empty(0, 0, 0) if mask is None else mask.to(self.dtype).flatten(2).contiguous()
        taps = [
            [y * g.dilation[0] - g.padding[0], x * g.dilation[1] - g.padding[1]]
            for y in range(g.kernel[0])
            for x in range(g.kernel[1])
        ]
        self.real = np.float64 if self.dtype == torch.float64 else np.float32
        sizes = Sizes(g.height, g.width, g.channels, g.out_height, g.out_width, *g.stride, g.channels // g.groups)
        self.arrays = Arrays(pixels, offsets, scale, torch.tensor(taps), torch.tensor(segments), sizes)
        self.shared = SHARED.numbers(**self.arrays._asdict())
        self.rows = self.sizes.rows(g.pixels, row_bytes)

    def empty(self, *shape: int) -> Tensor:
        """Scratch, not written."""
        return torch.empty(shape, dtype=self.dtype)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First and last output pixel of each chunk, counted over the batch."""
        for start in range(0, self.geometry.pixels, self.rows):
            yield start, min(start + self.rows, self.geometry.pixels)

    def images(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The images that a chunk's output pixels lie in: each image, its first and its last pixel of the chunk."""
        area = self.geometry.out_height * self.geometry.out_width
        for image in range(start // area, -(-stop // area)):
            yield image, max(start, image * area), min(stop, (image + 1) * area)

    def store(self, start: int, stop: int, rows: Tensor, output: Tensor) -> None:
        """Write a chunk's output pixels, (rows, groups, filters of a group), where they belong in (N, F, Ho, Wo)."""
        g = self.geometry
        if memory_format(output) == torch.channels_last:
            output.permute(0, 2, 3, 1).view(g.pixels, *rows.shape[1:])[start:stop] = rows
            return
        area = g.out_height * g.out_width
        by_image = output.view(g.batch, g.groups, g.group_filters, area).permute(0, 3, 1, 2)
        for image, first, last in self.images(start, stop):
            by_image[image, first - image * area : last - image * area] = rows[first - start : last - start]

    def results(
        self,
        arguments: ConvArguments,
        needed: ConvGradients[bool],
        maps: Tensor,
        places: Tensor,
        filters: Tensor,
    ) -> ConvGradients[Tensor | None]:
        """The gradients that are needed, but for the bias's, in the arguments' dtypes and memory formats.

        Args:
            arguments: of the call.
            needed: which gradients.
            maps: of the input, (N, C, H, W).
            places: of sampling locations, (N * Ho * Wo, K, offset groups, 3): y, x and mask.
            filters: of the weight.
        """
        g, (input, offset, weight, mask) = self.geometry, (*arguments[:3], arguments.mask)
        # (batch, Ho, Wo, taps, offset groups, y x mask) -> (batch, offset groups, taps, y x mask, Ho, Wo)
        batch = g.batch if needed.offset or needed.mask else 0
        places = places.view(batch, g.out_height, g.out_width, g.taps, g.offset_groups, 3).permute(0, 4, 3, 5, 1, 2)
        return ConvGradients(
            input=maps.to(input.dtype).contiguous(memory_format=memory_format(input)) if needed.input else None,
            offset=_places(places[:, :, :, :2], offset) if needed.offset else None,
            weight=filters.to(weight.dtype).contiguous(memory_format=memory_format(weight)) if needed.weight else None,
            bias=None,
            mask=_places(places[:, :, :, 2], mask) if needed.mask and mask is not None else None,
        )


def _places(grads: Tensor, like: Tensor) -> Tensor:
    """The gradients of sampling locations as those of offsets or of a mask."""
    return grads.reshape(like.shape).to(like.dtype).contiguous()
