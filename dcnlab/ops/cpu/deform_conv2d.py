"""Deformable convolution on a CPU: columns in chunks that stay in cache, products by oneDNN or MKL."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cpu.matmul import Factor, grouped_product
from dcnlab.ops.cpu.openmp import numbers_of, parts_of, run
from dcnlab.ops.geometry import ConvGeometry
from dcnlab.ops.layout import memory_format

CHUNK_BYTES = 8 << 20
"""Columns held at a time, so few that they stay in the third-level cache between a loop and a product."""

LEAST_ROWS = 256
"""Output pixels of a chunk all the same: products want rows."""

WHOLE_ROWS = 16
"""A chunk has a multiple of so many: a product that ends in a part of a block takes up to a tenth longer."""

PARTS = 4
"""Chunks at least, where they keep that many rows: a small map's columns are a large part of the memory."""

FEW_PIXELS = 16
"""Smallest part of a loop that a thread takes."""

PIECE_BYTES = 2 << 20
"""The weight's gradient is added up piece by piece, each while it is in the second-level cache."""


class _Call:
    """Arguments of forward and backward in the form that numba and the products take."""

    def __init__(self, input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: ConvGeometry):
        g = self.geometry = geometry
        self.weight = weight
        # Columns lie tap by tap, a contiguous weight channel by channel: the smaller of both is transposed.
        self.turns = weight.is_contiguous() and g.taps > 1 and g.pixels < g.group_filters
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        pixels = input.to(self.dtype).permute(0, 2, 3, 1).contiguous().view(-1)
        shift = offset.to(self.dtype).flatten(2).contiguous()
        scale = self.empty(0, 0, 0) if mask is None else mask.to(self.dtype).flatten(2).contiguous()
        taps = [
            [y * g.dilation[0] - g.padding[0], x * g.dilation[1] - g.padding[1]]
            for y in range(g.kernel[0])
            for x in range(g.kernel[1])
        ]
        self.real = np.float64 if self.dtype == torch.float64 else np.float32
        segments = torch.tensor(g.segments(g.channels))
        self.tensors = (pixels, shift, scale, torch.tensor(taps), segments)
        sizes = (g.height, g.width, g.channels, g.out_height, g.out_width, *g.stride, g.channels // g.groups)
        self.numbers = (*numbers_of(*self.tensors), *sizes)
        self.depth = g.taps * (g.channels // g.groups)
        self.rows = rows_of_a_chunk(g.pixels, g.taps * g.channels * self.dtype.itemsize)

    def filters(self, transposed: bool) -> Factor:
        """Each group's filters as (out channels, depth), or the other way round."""
        g = self.geometry
        filters = self.weight.to(self.dtype)
        filters = filters if self.turns else filters.permute(0, 2, 3, 1)
        filters = filters.reshape(g.groups, g.group_filters, self.depth)
        filters = filters.contiguous()  # for rows that are not dense oneDNN has nothing but its slowest loop
        return Factor(filters.transpose(1, 2) if transposed else filters, self.rows, -(-g.pixels // self.rows))

    def empty(self, *shape: int) -> Tensor:
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


def rows_of_a_chunk(pixels: int, row_bytes: int) -> int:
    """Output pixels of every chunk but the last, which is no small rest."""
    wanted = max(LEAST_ROWS, min(CHUNK_BYTES // row_bytes, -(-pixels // PARTS)))
    chunks = max(1, -(-(pixels - wanted // 4) // wanted))
    return max(1, min(pixels, -(-pixels // (chunks * WHOLE_ROWS)) * WHOLE_ROWS))


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the input's memory format."""
    g, call = geometry, _Call(input, offset, mask, weight, geometry)
    columns = call.empty(call.rows, g.taps * g.channels)
    layout = memory_format(input)
    output = torch.empty((g.batch, g.out_channels, g.out_height, g.out_width), dtype=call.dtype, memory_format=layout)
    filters = call.filters(transposed=True)
    shift = None if bias is None else bias.to(call.dtype)
    for start, stop in call.chunks():
        _sample(call, start, stop, columns)
        _store(call, start, stop, filters.product(call.for_product(columns[: stop - start]), shift), output)
    return output.to(input.dtype)


def backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    geometry: ConvGeometry,
    needed: tuple[bool, bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of input, offset, mask and weight; those not needed come back empty."""
    g, call = geometry, _Call(input, offset, mask, weight, geometry)
    wants_input, wants_weight = needed[0], needed[3]
    wants_places = needed[1] or needed[2]
    grads = grad.to(call.dtype).permute(0, 2, 3, 1).contiguous().view(g.pixels, g.groups, g.group_filters)
    filters = call.filters(transposed=False) if wants_input or wants_places else None
    width = g.taps * g.channels

    grad_pixels = torch.zeros(g.batch * g.height * g.width * g.channels if wants_input else 0, dtype=call.dtype)
    grad_places = call.empty(g.pixels if wants_places else 0, g.taps, g.offset_groups, 3)
    grad_filters = call.empty(g.groups if wants_weight else 0, g.group_filters, call.depth)
    if g.pixels == 0:
        grad_filters.zero_()
    columns = call.empty(call.rows if wants_weight else 0, width)
    piece = max(1, PIECE_BYTES // max(1, call.depth * call.dtype.itemsize))

    for start, stop in call.chunks():
        size = stop - start
        grad_columns = call.empty(0) if filters is None else call.for_loops(filters.product(grads[start:stop]))
        if wants_places:
            _places_backward(call, start, stop, grad_columns, columns, grad_places)
        elif wants_weight:
            _sample(call, start, stop, columns)
        if wants_input:
            _scatter(call, start, stop, grad_columns, grad_pixels)
        del grad_columns
        if wants_weight:
            sampled = call.for_product(columns[:size]).transpose(0, 1)
            for first in range(0, g.group_filters, piece):
                some = slice(first, first + piece)
                summand = grouped_product(grads[start:stop, :, some].permute(2, 1, 0), sampled).transpose(0, 1)
                if start == 0:
                    grad_filters[:, some] = summand
                else:
                    grad_filters[:, some] += summand
    del filters, columns
    # (batch, Ho, Wo, taps, offset groups, y x mask) -> (batch, offset groups, taps, y x mask, Ho, Wo)
    batch = g.batch if wants_places else 0
    places = grad_places.view(batch, g.out_height, g.out_width, g.taps, g.offset_groups, 3).permute(0, 4, 3, 5, 1, 2)
    channels = g.channels // g.groups
    by_filter = grad_filters.view(-1, channels, *g.kernel) if call.turns else grad_filters.view(-1, *g.kernel, channels)
    maps = grad_pixels.view(g.batch if wants_input else 0, g.height, g.width, g.channels).permute(0, 3, 1, 2)
    found = (
        maps.to(input.dtype, memory_format=memory_format(input)) if wants_input else None,
        places[:, :, :, :2].reshape(offset.shape).to(offset.dtype).contiguous() if needed[1] else None,
        places[:, :, :, 2].reshape(mask.shape).to(mask.dtype).contiguous() if needed[2] and mask is not None else None,
        (by_filter if call.turns else by_filter.permute(0, 3, 1, 2))
        .to(weight.dtype)
        .contiguous(memory_format=memory_format(weight))
        if wants_weight
        else None,
    )
    return tuple(input.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _store(call: _Call, start: int, stop: int, found: Tensor, output: Tensor) -> None:
    """Write a chunk's output pixels, (rows, groups, filters of a group), where they belong in (N, F, Ho, Wo)."""
    g = call.geometry
    if memory_format(output) == torch.channels_last:
        output.permute(0, 2, 3, 1).view(g.pixels, *found.shape[1:])[start:stop] = found
        return
    area = g.out_height * g.out_width
    by_image = output.view(g.batch, g.groups, g.group_filters, area).permute(0, 3, 1, 2)
    for image, first, last in call.images(start, stop):
        by_image[image, first - image * area : last - image * area] = found[first - start : last - start]


def _sample(call: _Call, start: int, stop: int, columns: Tensor) -> None:
    """Write the columns of output pixels `start` to `stop`."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    own = numbers_of(columns.view(-1))
    count = stop - start
    run(kernels.sampling(call.real), (count, start, *call.numbers, *own), parts_of(count, FEW_PIXELS))


def _places_backward(
    call: _Call, start: int, stop: int, grad_columns: Tensor, columns: Tensor, grad_places: Tensor
) -> None:
    """Write the gradients of offsets and mask for output pixels `start` to `stop`, and their columns."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    own = numbers_of(grad_columns, columns.view(-1), grad_places)
    count = stop - start
    run(kernels.gradients_of_places(call.real), (count, start, *call.numbers, *own), parts_of(count, FEW_PIXELS))


def _scatter(call: _Call, start: int, stop: int, grad_columns: Tensor, grad_pixels: Tensor) -> None:
    """Take a chunk's gradient to the input: a thread for each image, or for a band of an image's pixels.

    Bands, not some of the channels each: measured, two threads on alternating runs of channels are slower than one.
    """
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    g = call.geometry
    area, size = g.out_height * g.out_width, g.height * g.width
    images = list(call.images(start, stop))
    bands = -(-torch.get_num_threads() // len(images))
    parts = []
    for image, *rows in images:
        # The bands divide the pixels that the chunk covers; the first and the last take what lies beyond.
        ends = [
            image * size + ((rows[0] + (rows[1] - rows[0]) * band // bands) % area) * size // area
            for band in range(1, bands)
        ]
        parts += [(*rows, *band) for band in pairwise((image * size, *ends, (image + 1) * size))]
    table = torch.tensor(parts)
    own = numbers_of(table, grad_columns, grad_pixels)
    run(kernels.scattering(call.real), (stop - start, start, *call.numbers, *own), len(parts))
