"""Deformable convolution on CUDA: the kernels of `cuda_kernels/deform_conv2d.cu` around torch's matrix products.

Nothing here asks the GPU for a value, and all scratch is torch's, so calls can be captured in a CUDA graph. The
host-run tests call the same functions on CPU tensors with kernels compiled by g++.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda import choice, depthwise, fused
from dcnlab.ops.cuda.compile import C_TYPES, Prelude, Variant
from dcnlab.ops.cuda.launch import DIVISOR, KernelModule, ModuleFactory, divisor, module
from dcnlab.ops.cuda.products import grouped_product, grouped_sums, transposed_product
from dcnlab.ops.geometry import ConvGeometry
from dcnlab.ops.layout import empty_map, memory_format

CHUNK_BYTES = 24 << 20
"""Columns and their gradients held at a time: about half the second-level cache of an H200 (50 MB) or an A100 (40 MB),
so that a product reads what a kernel wrote, or the other way round, without going to memory."""

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take: a block's last threads may count past its end."""

THREADS = 128
ROWS = 32
_SOURCE = "deform_conv2d.cu"
_SIZES = np.dtype(
    [
        (name, np.int32)
        for name in (
            *("height", "width", "channels", "out_height", "out_width", "kernel_height", "kernel_width"),
            *("stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x", "groups", "offset_groups"),
        )
    ],
    align=True,
)
_DIVISORS = ("by_area", "by_out_width", "by_taps", "by_kernel_width", "by_offset_groups", "by_group_channels")
_CHUNK_SIZES = np.dtype(
    [
        *(("sizes", _SIZES), ("group_channels", np.int32), ("offset_group_channels", np.int32)),
        *((name, DIVISOR) for name in _DIVISORS),
    ],
    align=True,
)


def _prelude(dtype: torch.dtype, vec: int, wide: bool, total: torch.dtype) -> Prelude:
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "double" if dtype == torch.float64 else "float",
        "total_t": C_TYPES[total],
        "index_t": "long long" if wide else "int",
        "VEC": vec,
        "THREADS": THREADS,
        "ROWS": ROWS,
    }


def variants() -> list[Variant]:
    """Every text that this operator may ask for."""
    found = []
    for dtype in C_TYPES:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        for vec in (16 // dtype.itemsize, 1):
            for wide in (False, True):
                for total in dict.fromkeys((dtype, real)):
                    main = (
                        vec > 1 and not wide
                    )  # both totals: an image cut into chunks is the rule at the paper's sizes
                    found.append(Variant(_SOURCE, _prelude(dtype, vec, wide, total), main))
    return found


@dataclass(frozen=True)
class _Chunk:
    """A run of output pixels: whole images, or part of one."""

    start: int
    stop: int
    first_image: int
    images: int
    continues: bool
    """An earlier chunk holds output pixels of the same image."""


class _Call:
    """What forward and backward share: arguments as the kernels want them, and the plan of chunks."""

    def __init__(
        self,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        geometry: ConvGeometry,
        modules: ModuleFactory,
        chunk_bytes: int,
    ) -> None:
        g = self.geometry = geometry
        self.dtype, self.modules = input.dtype, modules
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.pixels = input.permute(0, 2, 3, 1).contiguous()
        self.shift = offset.to(self.real).contiguous()
        self.mask = None if mask is None else mask.to(self.real).contiguous()
        # Each group's filters as (out channels, taps * channels): a view where the weight is channels-last.
        filters = weight.permute(0, 2, 3, 1).reshape(g.groups, g.group_filters, -1)
        self.filters = filters
        self.depth = filters.shape[2]
        self.width = g.taps * g.channels
        runs = (g.channels // g.groups, g.channels // g.offset_groups)
        maps = (g.height, g.width, g.channels, g.out_height, g.out_width)
        numbers = (*maps, *g.kernel, *g.stride, *g.padding, *g.dilation, g.groups, g.offset_groups)
        divided_by = (g.out_height * g.out_width, g.out_width, g.taps, g.kernel[1], g.offset_groups, runs[0])
        self.sizes = np.array(numbers, dtype=_SIZES)
        self.chunk_sizes = np.array((numbers, *runs, *map(divisor, divided_by)), dtype=_CHUNK_SIZES)

        whole = 16 // self.dtype.itemsize
        aligned = all(run % whole == 0 for run in runs) and self.pixels.data_ptr() % 16 == 0
        self.vec = whole if aligned else 1
        packs = runs[1] // self.vec
        self.lanes = min(32, 1 << max(0, packs - 1).bit_length())
        self.rows_per_image = g.out_height * g.out_width
        self.chunk_rows = max(1, chunk_bytes // (self.width * self.dtype.itemsize))
        # Rows, entries and columns are counted within a chunk; maps and offsets over the batch.
        largest = max(
            input.numel(),
            offset.numel(),
            min(self.chunk_rows, g.pixels) * max(self.width, 4 * g.taps * g.offset_groups),
        )
        self.wide = largest > INT_MAX

    def depthwise(self, weight: Tensor) -> depthwise.Call:
        """The same call for the kernels of a group a channel."""
        return depthwise.Call(self.pixels, self.shift, self.mask, weight, self.chunk_sizes, self.geometry, self.modules)

    def module(self, total: torch.dtype | None = None) -> KernelModule:
        return self.modules(_SOURCE, _prelude(self.dtype, self.vec, self.wide, total or self.dtype))

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.pixels.device)

    def chunks(self) -> Iterator[_Chunk]:
        """As many whole images as the budget holds, or else parts of one image."""
        area, batch = self.rows_per_image, self.geometry.batch
        images = max(1, self.chunk_rows // max(area, 1))
        for first in range(0, batch, images):
            count = min(images, batch - first)
            begin, end = first * area, (first + count) * area
            step = end - begin if area <= self.chunk_rows else self.chunk_rows
            for start in range(begin, end, max(step, 1)):
                yield _Chunk(start, min(start + step, end), first, count, start > begin)

    def rows(self, chunk: _Chunk) -> int:
        return (chunk.stop - chunk.start) * self.geometry.taps * self.geometry.offset_groups

    def by_group(self, columns: Tensor) -> Tensor:
        return columns.view(-1, self.geometry.groups, self.depth)

    def blocks(self, rows: int) -> tuple[tuple[int], tuple[int, int]]:
        """Grid and block of the kernels that go over rows, ROWS a block."""
        return (-(-rows // ROWS),), (self.lanes, min(ROWS, THREADS // self.lanes))

    def sample(self, chunk: _Chunk, columns: Tensor) -> None:
        rows = self.rows(chunk)
        self.module().launch(
            "sample",
            *self.blocks(rows),
            (self.pixels, self.shift, self.mask, columns, self.chunk_sizes, np.int64(chunk.start), np.int64(rows)),
        )


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    modules: ModuleFactory = module,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the input's memory format: fused where `choice.serves`, or by chunks."""
    g, layout = geometry, memory_format(input)
    call = _Call(input, offset, mask, weight, g, modules, chunk_bytes)
    if depthwise.serves(g):
        by_image = call.depthwise(weight).forward(bias).view(g.batch, g.out_height, g.out_width, g.out_channels)
        return by_image.permute(0, 3, 1, 2).to(memory_format=layout)
    filters = call.filters.reshape(g.out_channels, call.depth).contiguous()
    if choice.serves(call.pixels, filters, g):
        pixels = fused.forward(call.pixels, call.shift, call.mask, filters, bias, call.sizes, g, modules)
        by_image = pixels.view(g.batch, g.out_height, g.out_width, g.out_channels)
        return by_image.permute(0, 3, 1, 2).to(memory_format=layout)
    output = empty_map(input, (g.batch, g.out_channels, g.out_height, g.out_width), layout)
    columns = call.empty(min(g.pixels, call.chunk_rows), call.width)
    for chunk in call.chunks():
        call.sample(chunk, columns)
        sampled = call.by_group(columns[: chunk.stop - chunk.start])
        if layout == torch.channels_last:
            _store_channels_last(call, chunk, sampled, bias, output)
        else:
            _store_channels_first(call, chunk, sampled, bias, output)
    return output


def _store_channels_last(call: _Call, chunk: _Chunk, sampled: Tensor, bias: Tensor | None, output: Tensor) -> None:
    g = call.geometry
    part = output.permute(0, 2, 3, 1).view(g.pixels, g.groups, g.group_filters)[chunk.start : chunk.stop]
    grouped_product(sampled, call.filters.transpose(1, 2), part)
    if bias is not None:
        part += bias.view(g.groups, g.group_filters)


def _store_channels_first(call: _Call, chunk: _Chunk, sampled: Tensor, bias: Tensor | None, output: Tensor) -> None:
    """The product turned round, (filters, depth) @ (depth, pixels), so that it is written where it belongs."""
    g, area = call.geometry, call.rows_per_image
    images = slice(chunk.first_image, chunk.first_image + chunk.images)
    first = chunk.start - chunk.first_image * area
    part = output.view(g.batch, g.out_channels, area)[
        images, :, first : first + (chunk.stop - chunk.start) // chunk.images
    ]
    transposed_product(call.filters, sampled, part)
    if bias is not None:
        part += bias[:, None]


def backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    geometry: ConvGeometry,
    needed: tuple[bool, bool, bool, bool],
    modules: ModuleFactory = module,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of input, offset, mask and weight; those not needed come back empty."""
    g = geometry
    wants_input, wants_weight = needed[0], needed[3]
    wants_places = needed[1] or needed[2]
    buffers = (wants_input or wants_places) + wants_weight
    call = _Call(input, offset, mask, weight, g, modules, chunk_bytes // max(buffers, 1))
    empty = call.empty(0)
    grads = grad.permute(0, 2, 3, 1).reshape(g.pixels, g.out_channels)
    if depthwise.serves(g):
        return _as_given(call.depthwise(weight).backward(grads.contiguous(), needed), input, offset, mask)
    limit = min(g.pixels, call.chunk_rows)
    grad_columns = call.empty(limit, call.width) if wants_input or wants_places else empty
    columns = call.empty(limit, call.width) if wants_weight else empty
    # An image cut into several chunks is summed in full precision, and rounded once.
    total = call.real if call.rows_per_image > call.chunk_rows else call.dtype
    grad_pixels = call.empty(g.batch, g.height, g.width, g.channels, dtype=total) if wants_input else empty
    grad_shift = torch.empty_like(call.shift) if needed[1] else None
    grad_mask = torch.empty_like(call.mask) if needed[2] and call.mask is not None else None
    grad_filters = torch.zeros(g.groups, g.group_filters, call.depth, dtype=call.real, device=input.device)

    for chunk in call.chunks():
        size = chunk.stop - chunk.start
        group_grads = grads[chunk.start : chunk.stop].view(size, g.groups, g.group_filters)
        if wants_input or wants_places:
            grouped_product(group_grads, call.filters, call.by_group(grad_columns[:size]))
        if wants_places:
            _places(call, chunk, grad_columns, columns if wants_weight else None, grad_shift, grad_mask)
        elif wants_weight:
            call.sample(chunk, columns)
        if wants_input:
            _gather(call, chunk, grad_columns, grad_pixels)
        if wants_weight:
            grad_filters += grouped_sums(group_grads, call.by_group(columns[:size]))
    filters = grad_filters.view(g.out_channels, *g.kernel, g.channels // g.groups)
    grad_weight = filters.permute(0, 3, 1, 2).to(weight.dtype).contiguous() if wants_weight else None
    return _as_given((grad_pixels if wants_input else None, grad_shift, grad_mask, grad_weight), input, offset, mask)


def _as_given(
    grads: tuple[Tensor | None, ...], input: Tensor, offset: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in the dtypes of the arguments, the input's in its memory format; empty where there is none."""
    grad_pixels, grad_shift, grad_mask, grad_weight = grads
    if grad_pixels is not None:
        grad_pixels = grad_pixels.permute(0, 3, 1, 2).to(input.dtype, memory_format=memory_format(input))
    found = (
        grad_pixels,
        None if grad_shift is None else grad_shift.to(offset.dtype),
        None if grad_mask is None or mask is None else grad_mask.to(mask.dtype),
        grad_weight,
    )
    return tuple(input.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _places(
    call: _Call,
    chunk: _Chunk,
    grad_columns: Tensor,
    columns: Tensor | None,
    grad_shift: Tensor | None,
    grad_mask: Tensor | None,
) -> None:
    rows = call.rows(chunk)
    call.module().launch(
        "places_backward",
        *call.blocks(rows),
        (
            *(grad_columns, call.pixels, call.shift, call.mask, columns, grad_shift, grad_mask),
            *(call.chunk_sizes, np.int64(chunk.start), np.int64(rows)),
        ),
    )


def _gather(call: _Call, chunk: _Chunk, grad_columns: Tensor, grad_pixels: Tensor) -> None:
    """Put the chunk's entries into bins by input pixel, a counting sort, and let each input pixel sum its own.

    A chunk has fewer than 2^31 entries: four a row, and each row has at least one column.
    """
    g, rows = call.geometry, call.rows(chunk)
    keys = chunk.images * g.height * g.width * g.offset_groups
    if keys == 0:
        return
    ends = torch.zeros(keys + 1, dtype=torch.int32, device=call.pixels.device)
    entry_bytes = 16 if call.wide or call.real == torch.float64 else 8
    bins, ordered = call.empty(2, 4 * rows * entry_bytes, dtype=torch.uint8)
    places = (call.chunk_sizes, np.int64(chunk.start), np.int64(rows), np.int64(chunk.first_image))
    grid, block = (-(-rows // THREADS),), (THREADS,)
    call.module().launch("entries", grid, block, (call.shift, call.mask, ends, None, *places))
    ends = torch.cumsum(ends, 0, dtype=torch.int32)
    call.module().launch("entries", grid, block, (call.shift, call.mask, ends, bins, *places))
    out = grad_pixels[chunk.first_image : chunk.first_image + chunk.images]
    threads_y = THREADS // call.lanes  # neighbouring keys in one block, for they read many of the same columns
    call.module(grad_pixels.dtype).launch(
        "gather",
        (-(-keys // threads_y),),
        (call.lanes, threads_y),
        (grad_columns, bins, ordered, ends, out, call.chunk_sizes, np.int64(keys), np.int32(chunk.continues)),
    )
