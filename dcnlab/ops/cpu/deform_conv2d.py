"""Deformable convolution on a CPU: columns in chunks that stay in cache, products by oneDNN or MKL."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cpu.products import Factor, grouped_product
from dcnlab.ops.cpu.threads import split
from dcnlab.ops.geometry import ConvGeometry

CHUNK_BYTES = 4 << 20
"""Columns held at a time, so few that they stay in the third-level cache between a loop and a product."""

LEAST_ROWS = 256
"""Output pixels of a chunk all the same: products want rows."""

PARTS = 4
"""Chunks at least, where they keep that many rows: a small map's columns are a large part of the memory."""

PIECE_BYTES = 2 << 20
"""The weight's gradient is added up piece by piece, each while it is in the second-level cache."""


class _Call:
    """What forward and backward share: arguments as numba and the products want them."""

    def __init__(self, input: Tensor, offset: Tensor, mask: Tensor | None, geometry: ConvGeometry):
        g = self.geometry = geometry
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        pixels = input.to(self.dtype).permute(0, 2, 3, 1).contiguous().view(-1)
        shift = offset.to(self.dtype).flatten(2).contiguous()
        scale = self.empty(0, 0, 0) if mask is None else mask.to(self.dtype).flatten(2).contiguous()
        taps = [
            [y * g.dilation[0] - g.padding[0], x * g.dilation[1] - g.padding[1]]
            for y in range(g.kernel[0])
            for x in range(g.kernel[1])
        ]
        self.pixels = pixels.numpy()
        self.places = (shift.numpy(), scale.numpy(), np.array(taps))
        self.segments = np.array(g.segments(g.channels))
        self.sizes = (g.height, g.width, g.channels, g.out_height, g.out_width, *g.stride, g.channels // g.groups)
        self.depth = g.taps * (g.channels // g.groups)
        fitting = CHUNK_BYTES // (g.taps * g.channels * self.dtype.itemsize)
        self.rows = max(1, min(g.pixels, max(LEAST_ROWS, min(fitting, -(-g.pixels // PARTS)))))

    def filters(self, weight: Tensor, transposed: bool) -> Factor:
        """Each group's filters as (out channels, taps * channels), or the other way round."""
        g = self.geometry
        filters = weight.to(self.dtype).permute(0, 2, 3, 1).reshape(g.groups, g.group_filters, self.depth)
        filters = filters.contiguous()  # for rows that are not dense oneDNN has nothing but its slowest loop
        return Factor(filters.transpose(1, 2) if transposed else filters, self.rows, -(-g.pixels // self.rows))

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First and last output pixel of each chunk, counted over the batch."""
        for start in range(0, self.geometry.pixels, self.rows):
            yield start, min(start + self.rows, self.geometry.pixels)

    def by_group(self, columns: Tensor) -> Tensor:
        return columns.view(-1, self.geometry.groups, self.depth)


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), channels last in memory."""
    g, call = geometry, _Call(input, offset, mask, geometry)
    columns = call.empty(call.rows, g.taps * g.channels)
    output = call.empty(g.pixels, g.groups, g.group_filters)
    filters = call.filters(weight, transposed=True)
    shift = None if bias is None else bias.to(call.dtype)
    for start, stop in call.chunks():
        split(functools.partial(_sample, call, start, columns), stop - start, smallest=16)
        output[start:stop] = filters.product(call.by_group(columns[: stop - start]), shift)
    return output.view(g.batch, g.out_height, g.out_width, g.out_channels).permute(0, 3, 1, 2).to(input.dtype)


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
    g, call = geometry, _Call(input, offset, mask, geometry)
    wants_input, wants_weight = needed[0], needed[3]
    wants_places = needed[1] or needed[2]
    grads = grad.to(call.dtype).permute(0, 2, 3, 1).contiguous().view(g.pixels, g.groups, g.group_filters)
    filters = call.filters(weight, transposed=False) if wants_input or wants_places else None
    width = g.taps * g.channels

    grad_pixels = torch.zeros(g.batch * g.height * g.width * g.channels if wants_input else 0, dtype=call.dtype)
    grad_places = call.empty(g.pixels if wants_places else 0, g.taps, g.offset_groups, 3)
    grad_filters = torch.zeros(g.groups if wants_weight else 0, g.group_filters, call.depth, dtype=call.dtype)
    columns = call.empty(call.rows if wants_weight else 0, width)
    piece = max(1, PIECE_BYTES // max(1, call.depth * call.dtype.itemsize))

    for start, stop in call.chunks():
        size = stop - start
        grad_columns = call.empty(0) if filters is None else filters.product(grads[start:stop]).reshape(-1)
        if wants_places:
            split(functools.partial(_places_backward, call, start, grad_columns, columns, grad_places), size, 16)
        elif wants_weight:
            split(functools.partial(_sample, call, start, columns), size, smallest=16)
        if wants_input:
            _scatter(call, start, stop, grad_columns, grad_pixels)
        del grad_columns
        if wants_weight:
            sampled = call.by_group(columns[:size]).transpose(0, 1)
            for first in range(0, g.group_filters, piece):
                some = slice(first, first + piece)
                grad_filters[:, some] += grouped_product(
                    grads[start:stop, :, some].permute(2, 1, 0), sampled
                ).transpose(0, 1)
    del filters, columns
    # (batch, Ho, Wo, taps, offset groups, y x mask) -> (batch, offset groups, taps, y x mask, Ho, Wo)
    batch = g.batch if wants_places else 0
    places = grad_places.view(batch, g.out_height, g.out_width, g.taps, g.offset_groups, 3).permute(0, 4, 3, 5, 1, 2)
    by_filter = grad_filters.view(-1, *g.kernel, g.channels // g.groups)
    maps = grad_pixels.view(g.batch if wants_input else 0, g.height, g.width, g.channels).permute(0, 3, 1, 2)
    found = (
        maps.to(input.dtype) if wants_input else None,
        places[:, :, :, :2].reshape(offset.shape).to(offset.dtype).contiguous() if needed[1] else None,
        places[:, :, :, 2].reshape(mask.shape).to(mask.dtype).contiguous() if needed[2] and mask is not None else None,
        by_filter.permute(0, 3, 1, 2).to(weight.dtype).contiguous() if wants_weight else None,
    )
    return tuple(input.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _sample(call: _Call, start: int, columns: Tensor, first: int, last: int) -> None:
    """Write the columns of output pixels `first` to `last` of the chunk that begins at `start`."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    rows = start, start + first, start + last
    kernels.sample(call.pixels, *call.places, call.segments, call.sizes, *rows, columns.view(-1).numpy())


def _places_backward(
    call: _Call, start: int, grad_columns: Tensor, columns: Tensor, grad_places: Tensor, first: int, last: int
) -> None:
    """Write the gradients of offsets and mask for output pixels `first` to `last` of a chunk, and their columns."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    rows = start, start + first, start + last
    arrays = grad_columns.numpy(), columns.view(-1).numpy(), grad_places.numpy()
    kernels.places_backward(call.pixels, *call.places, call.segments, call.sizes, *rows, *arrays)


def _scatter(call: _Call, start: int, stop: int, grad_columns: Tensor, grad_pixels: Tensor) -> None:
    """Take a chunk's gradient to the input: a thread for each image, or for a band of an image's pixels.

    Bands, not some of the channels each: measured, two threads on alternating runs of channels are slower than one.
    """
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    g = call.geometry
    area, size = g.out_height * g.out_width, g.height * g.width
    images = range(start // area, -(-stop // area))
    bands = -(-torch.get_num_threads() // len(images))
    parts = []
    for image in images:
        rows = max(start, image * area), min(stop, (image + 1) * area)
        # The bands share out the pixels that the chunk stands on; the first and the last take what lies beyond.
        ends = [
            image * size + ((rows[0] + (rows[1] - rows[0]) * band // bands) % area) * size // area
            for band in range(1, bands)
        ]
        parts += [(rows, band) for band in pairwise((image * size, *ends, (image + 1) * size))]

    def work(first: int, last: int) -> None:
        for rows, band in parts[first:last]:
            kernels.scatter(
                *call.places, call.segments, call.sizes, start, *rows, *band, grad_columns.numpy(), grad_pixels.numpy()
            )

    split(work, len(parts))
