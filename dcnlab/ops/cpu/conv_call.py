"""A call of deformable convolution on a CPU: its arguments as the loops and the products take them, and the loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops import chunk_sizes
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import deform_conv2d_callbacks as loops
from dcnlab.ops.cpu.deform_conv2d_kernels import Arrays, Sizes
from dcnlab.ops.cpu.matmul import Factor
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import memory_format

MIN_PIXELS = 16
"""Smallest part of a loop that a thread takes."""


def dtype_of(input: Tensor) -> torch.dtype:
    """What a call computes in: float64 for float64 input, else float32."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


class BaseCall:
    """Arguments in the form that the loops take, whichever loops compute the call.

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
        self.shared = loops.SHARED.numbers(**self.arrays._asdict())
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


class Call(BaseCall):
    """Arguments of forward and backward by columns, in the form that numba and the products take."""

    def __init__(self, arguments: ConvArguments, chunks: CpuChunks | None) -> None:
        g, weight = arguments.geometry, arguments.weight
        row_bytes = g.taps * g.channels * dtype_of(arguments.input).itemsize
        super().__init__(arguments, chunks, arguments.input.permute(0, 2, 3, 1), g.segments(g.channels), row_bytes)
        # Columns lie tap by tap, a contiguous weight channel by channel: the smaller of both is transposed.
        self.turns = weight.is_contiguous() and g.taps > 1 and g.pixels < g.group_filters
        self.depth = g.taps * (g.channels // g.groups)

    def filters(self, transposed: bool) -> Factor:
        """Each group's filters as (out channels, depth), or the other way round."""
        g = self.geometry
        filters = self.weight.to(self.dtype)
        filters = filters if self.turns else filters.permute(0, 2, 3, 1)
        filters = filters.reshape(g.groups, g.group_filters, self.depth)
        filters = filters.contiguous()  # for rows that are not dense oneDNN has nothing but its slowest loop
        return Factor(filters.transpose(1, 2) if transposed else filters, self.rows, -(-g.pixels // self.rows))

    def for_product(self, columns: Tensor) -> Tensor:
        """Columns (rows, taps * channels) as (rows, groups, depth), the depth as the filters'."""
        g = self.geometry
        if self.turns:
            columns = columns.view(-1, g.groups, g.taps, g.channels // g.groups).transpose(2, 3)
        return columns.reshape(-1, g.groups, self.depth)

    def for_loops(self, columns: Tensor) -> Tensor:
        """The same backwards, flat."""
        g = self.geometry
        if self.turns:
            columns = columns.view(-1, g.groups, g.channels // g.groups, g.taps).transpose(2, 3)
        return columns.reshape(-1)


def sample(call: Call, start: int, stop: int, columns: Tensor) -> None:
    """Write the columns of output pixels `start` to `stop`."""
    count = stop - start
    numbers = loops.SAMPLE.numbers(count=count, start=start, shared=call.shared, columns=columns.view(-1))
    run(loops.sampling(call.real), numbers, parts_of(count, MIN_PIXELS))


def places_backward(
    call: Call, start: int, stop: int, grad_columns: Tensor, columns: Tensor, grad_places: Tensor
) -> None:
    """Write the gradients of offsets and mask for output pixels `start` to `stop`, and their columns."""
    count = stop - start
    numbers = loops.PLACES_BACKWARD.numbers(
        count=count,
        start=start,
        shared=call.shared,
        grad_columns=grad_columns,
        columns=columns.view(-1),
        grad_places=grad_places,
    )
    run(loops.gradients_of_places(call.real), numbers, parts_of(count, MIN_PIXELS))


def scatter(call: Call, start: int, stop: int, grad_columns: Tensor, grad_pixels: Tensor) -> None:
    """Take a chunk's gradient to the input: a thread for each image, or for a band of an image's pixels.

    Bands, not some of the channels each: measured, two threads on alternating runs of channels are slower than one.
    """
    g = call.geometry
    area, size = g.out_height * g.out_width, g.height * g.width
    images = list(call.images(start, stop))
    count = -(-torch.get_num_threads() // len(images))
    rows = []
    for image, first, last in images:
        # The bands divide the pixels that the chunk covers; the first and the last take what lies beyond.
        ends = [
            image * size + ((first + (last - first) * band // count) % area) * size // area for band in range(1, count)
        ]
        rows += [(first, last, *band) for band in pairwise((image * size, *ends, (image + 1) * size))]
    bands = torch.tensor(rows)
    numbers = loops.SCATTER.numbers(
        start=start, shared=call.shared, bands=bands, grad_columns=grad_columns, grad_pixels=grad_pixels
    )
    run(loops.scattering(call.real), numbers, len(rows))
