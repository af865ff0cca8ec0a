"""Deformable convolution on a CPU: columns in chunks that stay in cache, products by oneDNN or MKL."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cpu.products import grouped_product
from dcnlab.ops.cpu.threads import split
from dcnlab.ops.geometry import ConvGeometry

CHUNK_BYTES = 8 << 20
"""Columns held at a time: enough rows for the products' full speed, few enough for the third-level cache."""

BLOCK = 128
"""Channels of a chunk that one thread takes in the backward pass: fixed, so that no sum depends on the threads."""


class _Call:
    """What forward and backward share: arguments as numba and the products want them."""

    def __init__(self, input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: ConvGeometry):
        g = self.geometry = geometry
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        pixels = input.to(self.dtype).permute(0, 2, 3, 1).contiguous().view(-1)
        shift = offset.to(self.dtype).flatten(2).contiguous()
        scale = self.empty(0, 0, 0) if mask is None else mask.to(self.dtype).flatten(2).contiguous()
        self.maps = (pixels.numpy(), shift.numpy(), scale.numpy())
        self.sizes = (
            *(g.height, g.width, g.channels, g.out_height, g.out_width),
            *(*g.kernel, *g.stride, *g.padding, *g.dilation, g.channels // g.groups),
        )
        # Each group's filters as (out channels, taps * channels): a view where the weight is channels-last.
        filters = weight.to(self.dtype).permute(0, 2, 3, 1).reshape(g.groups, g.group_filters, -1)
        self.filters = filters
        self.depth = filters.shape[2]
        self.rows = max(1, min(g.pixels, CHUNK_BYTES // (g.taps * g.channels * self.dtype.itemsize)))

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
    g, call = geometry, _Call(input, offset, mask, weight, geometry)
    segments = np.array(g.segments(g.channels))
    columns = call.empty(call.rows, g.taps * g.channels)
    output = call.empty(g.pixels, g.groups, g.group_filters)
    filters = call.filters.transpose(1, 2)
    for start, stop in call.chunks():
        split(functools.partial(_sample, call, segments, start, columns), stop - start, smallest=16)
        output[start:stop] = grouped_product(call.by_group(columns[: stop - start]), filters)
        if bias is not None:
            output[start:stop] += bias.to(call.dtype).view(g.groups, g.group_filters)
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
    g, call = geometry, _Call(input, offset, mask, weight, geometry)
    wants_input, wants_weight = needed[0], needed[3]
    wants_places = needed[1] or needed[2]
    wants_columns = wants_input or wants_places
    grads = grad.to(call.dtype).permute(0, 2, 3, 1).reshape(g.pixels, g.groups, g.group_filters)
    segments = np.array(g.segments(BLOCK))
    blocks = np.array_split(segments, len(segments)) if len(segments) <= 16 else np.array_split(segments, 16)
    width, area = g.taps * g.channels, g.out_height * g.out_width

    grad_pixels = torch.zeros(g.batch * g.height * g.width * g.channels if wants_input else 0, dtype=call.dtype)
    grad_places = call.empty(g.pixels if wants_places else 0, g.taps, g.offset_groups, 3)
    grad_filters = torch.zeros(g.groups, g.group_filters, call.depth, dtype=call.dtype)
    grad_columns = call.empty(0, width)
    columns = call.empty(call.rows if wants_weight else 0, width)
    sums = call.empty(len(blocks), call.rows if wants_places else 0, g.taps, g.offset_groups, 3)

    for start, stop in call.chunks():
        size = stop - start
        if wants_columns:
            grad_columns = grouped_product(grads[start:stop], call.filters).reshape(size, width)
        sums.zero_()
        parts = [(image, block) for image in range(start // area, -(-stop // area)) for block in range(len(blocks))]
        work = functools.partial(_take_back, call, blocks, parts, start, stop, grad_columns, columns, sums, grad_pixels)
        split(work, len(parts))
        if wants_places:
            torch.sum(sums[:, :size], 0, out=grad_places[start:stop])
        if wants_weight:
            by_group = call.by_group(columns[:size])
            grad_filters += grouped_product(grads[start:stop].permute(2, 1, 0), by_group.transpose(0, 1)).transpose(
                0, 1
            )
    # (batch, Ho, Wo, taps, offset groups, y x mask) -> (batch, offset groups, taps, y x mask, Ho, Wo)
    batch = g.batch if wants_places else 0
    places = grad_places.view(batch, g.out_height, g.out_width, g.taps, g.offset_groups, 3).permute(0, 4, 3, 5, 1, 2)
    filters = grad_filters.view(g.out_channels, *g.kernel, g.channels // g.groups)
    maps = grad_pixels.view(g.batch if wants_input else 0, g.height, g.width, g.channels).permute(0, 3, 1, 2)
    found = (
        maps.to(input.dtype) if wants_input else None,
        places[:, :, :, :2].reshape(offset.shape).to(offset.dtype).contiguous() if needed[1] else None,
        places[:, :, :, 2].reshape(mask.shape).to(mask.dtype).contiguous() if needed[2] and mask is not None else None,
        filters.permute(0, 3, 1, 2).to(weight.dtype).contiguous() if wants_weight else None,
    )
    return tuple(input.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _sample(call: _Call, segments: np.ndarray, start: int, columns: Tensor, first: int, last: int) -> None:
    """Write the columns of output pixels `first` to `last` of the chunk that begins at `start`."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    kernels.sample(*call.maps, segments, call.sizes, start, start + first, start + last, columns.numpy())


def _take_back(
    call: _Call,
    blocks: list[np.ndarray],
    parts: list[tuple[int, int]],
    start: int,
    stop: int,
    grad_columns: Tensor,
    columns: Tensor,
    sums: Tensor,
    grad_pixels: Tensor,
    first: int,
    last: int,
) -> None:
    """Run the backward kernel over some of a chunk's (image, block of channels)."""
    from dcnlab.ops.cpu import deform_conv2d_kernels as kernels

    area = call.geometry.out_height * call.geometry.out_width
    arrays = grad_columns.numpy(), columns.numpy()
    for image, block in parts[first:last]:
        rows = max(start, image * area), min(stop, (image + 1) * area)
        totals = sums[block].numpy(), grad_pixels.numpy()
        kernels.backward(*call.maps, blocks[block], call.sizes, start, *rows, *arrays, *totals)
