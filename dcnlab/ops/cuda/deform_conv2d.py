"""Deformable convolution on CUDA: the kernels of `cuda_kernels/deform_conv2d.cu` around torch's matrix products.

A call holds the columns of as many output pixels as its budget allows (`chunks.py`), of the whole batch if it can: two
launches forward and six backward, products included. The backward pass holds one matrix: first the columns, for the
weight's gradient, then their gradient. Nothing here asks the GPU for a value, and all scratch is torch's, so calls can
be captured in a CUDA graph. The host-run tests call the same functions on CPU tensors with kernels compiled by g++.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda import chunks, depthwise, fused, fused_dispatch, matmul
from dcnlab.ops.cuda.chunks import CHUNK_BYTES as CHUNK_BYTES
from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.compile import C_TYPES, Prelude, Variant
from dcnlab.ops.cuda.launch import DIVISOR, KernelModule, ModuleFactory, divisor, module, on_stream, record
from dcnlab.ops.cuda.scratch import scratch, zeros
from dcnlab.ops.geometry import ConvGeometry
from dcnlab.ops.layout import memory_format

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take: a block's last threads may count past its end."""

THREADS = 128
ROWS = 32
LONG = 256
"""Entries of a key up to which a warp alone puts them in order and adds them up; beyond, a block does."""
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
        *(("keys", np.int64), ("capacity", np.int64)),
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
        "LONG": LONG,
    }


def builds(dtype: torch.dtype) -> list[tuple[int, bool]]:
    """Elements of one load, and whether indices are 64 bits wide; those only with the widest and with single loads."""
    whole = 16 // dtype.itemsize
    return [*((vec, False) for vec in (8, 4, 2, 1) if vec <= whole), (whole, True), (1, True)]


def widest(dtype: torch.dtype, alignment: int, wide: bool, runs: tuple[int, ...]) -> tuple[int, bool]:
    """The build with the widest loads that divide each run of channels, at addresses of an alignment in bytes."""
    return next(
        build
        for build in sorted(builds(dtype), reverse=True)
        if build[1] == wide
        and alignment % (build[0] * dtype.itemsize) == 0
        and all(run % build[0] == 0 for run in runs)
    )


def variants() -> list[Variant]:
    """Every text that this operator may ask for."""
    found = []
    for dtype in C_TYPES:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        for vec, wide in builds(dtype):
            for total in dict.fromkeys((dtype, real)):
                main = vec > 1 and not wide  # both totals: an image may be cut into chunks
                found.append(Variant(_SOURCE, _prelude(dtype, vec, wide, total), main))
            found.append(Variant(depthwise.SOURCE, depthwise.prelude(_prelude(dtype, vec, wide, dtype)), main))
    return found


@dataclass(frozen=True)
class _Plan:
    """What follows from the sizes of a call: computed once for all calls of these sizes."""

    sizes: np.void
    chunk_sizes: np.void
    prelude: Prelude
    total: torch.dtype
    """Of the input's gradient while it is added up: an image cut into several chunks is summed in full precision."""
    total_prelude: Prelude
    width: int
    """Columns of an output pixel."""
    chunks: tuple[Chunk, ...]
    most_rows: int
    """Output pixels of the largest chunk."""
    most_images: int
    rows_block: tuple[int, int]
    keys: int
    """Of an image: its pixels by offset group."""
    key_blocks: tuple[int, np.int32, tuple[int, int]]
    """Blocks of an image's keys, twice, and the block."""
    bin_bytes: int
    """Of the entries of the largest chunk."""


@lru_cache(maxsize=512)
def _plan(
    geometry: ConvGeometry, dtype: torch.dtype, alignment: int, backward: bool, chunk_bytes: int, index_limit: int
) -> _Plan:
    """Plan a call.

    Args:
        geometry: of the call.
        dtype: of the input.
        alignment: bytes of which the input's address is a multiple.
        backward: the input's gradient is wanted, so that entries are sorted.
        chunk_bytes: for columns.
        index_limit: the largest tensor for 32-bit indices.
    """
    g, real = geometry, torch.float64 if dtype == torch.float64 else torch.float32
    width, area, lines = g.taps * g.channels, g.out_height * g.out_width, g.taps * g.offset_groups
    sort_bytes = 4 * lines * 2 * real.itemsize if backward else 0
    most_bytes = chunks.torchvision_bytes(g, dtype, backward)
    limit = chunks.row_limit(width * dtype.itemsize, sort_bytes, chunk_bytes, most_bytes)
    if depthwise.serves(g):
        limit = max(area, chunks.row_limit(sort_bytes, 0, chunk_bytes, most_bytes))  # no columns; no image is cut
    cut = chunks.cut(g, min(limit, max(1, (2**31 - 1) // (4 * lines))))  # entries are counted by 32 bits
    most_rows = max((chunk.stop - chunk.start for chunk in cut), default=0)
    most_images = max((chunk.images for chunk in cut), default=0)
    keys, capacity = g.height * g.width * g.offset_groups, 4 * lines * min(area, most_rows)
    # Rows, entries and columns are counted within a chunk; maps and offsets over the batch.
    largest = max(
        g.batch * g.channels * g.height * g.width,
        2 * lines * g.pixels,
        most_rows * max(width, 4 * lines),
        most_images * (keys + 2),
        depthwise.largest(g) if depthwise.serves(g) else 0,
    )
    runs = (g.channels // g.groups, g.channels // g.offset_groups)
    read = (depthwise.run(g),) if depthwise.serves(g) else runs  # channels next to each other that are read alike
    vec, wide = widest(dtype, alignment, largest > index_limit, read)
    lanes = min(32, 1 << max(0, runs[1] // vec - 1).bit_length())
    maps = (g.height, g.width, g.channels, g.out_height, g.out_width)
    groups = 1 if depthwise.serves(g) else g.groups  # without columns a row is numbered as if it had a single one
    numbers = (*maps, *g.kernel, *g.stride, *g.padding, *g.dilation, groups, g.offset_groups)
    divided_by = (area, g.out_width, g.taps, g.kernel[1], g.offset_groups, runs[0])
    total = real if len(cut) > g.batch else dtype
    key_lines = THREADS // lanes  # neighbouring keys in one block, for they read many of the same columns
    blocks = -(-keys // key_lines)
    return _Plan(
        record(numbers, _SIZES),
        record((numbers, *runs, keys, capacity, *map(divisor, divided_by)), _CHUNK_SIZES),
        _prelude(dtype, vec, wide, dtype),
        total,
        _prelude(dtype, vec, wide, total),
        width,
        cut,
        most_rows,
        most_images,
        (lanes, min(ROWS, THREADS // lanes)),
        keys,
        (blocks, np.int32(blocks), (lanes, key_lines)),
        most_images * capacity * (16 if wide or real == torch.float64 else 8),
    )


class _Call:
    """What forward and backward share: the plan, and arguments as the kernels want them."""

    def __init__(
        self,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        geometry: ConvGeometry,
        modules: ModuleFactory,
        chunk_bytes: int | None,
        backward: bool,
    ) -> None:
        self.geometry, self.modules = geometry, modules
        self.dtype, self.device = input.dtype, input.device
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.pixels = input.permute(0, 2, 3, 1).contiguous()
        self.offset = offset.to(self.real).contiguous()
        self.mask = None if mask is None else mask.to(self.real).contiguous()
        # (filters, taps * channels of a group): a view where the weight is channels-last.
        self.filters = weight.permute(0, 2, 3, 1).reshape(geometry.out_channels, -1)
        alignment = math.gcd(self.pixels.data_ptr(), 16)
        limit = chunks.budget() if chunk_bytes is None else chunk_bytes
        self.plan = _plan(geometry, input.dtype, alignment, backward, limit, INT_MAX)

    @cached_property
    def kernels(self) -> KernelModule:
        """Those of the chunks, which a fused call does not need."""
        return self.modules(_SOURCE, self.plan.prelude)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return scratch(shape, dtype or self.dtype, self.device)

    def launch_rows(self, kernel: str, chunk: Chunk, *args: Tensor | None) -> None:
        """Launch a kernel that goes over the chunk's rows, ROWS a block."""
        plan, scalars = self.plan, chunk.scalars
        grid = (-(-int(scalars[1]) // ROWS),)
        self.kernels.launch(kernel, grid, plan.rows_block, (*args, plan.chunk_sizes, *scalars))

    def launch_entries(self, chunk: Chunk, bins: _Bins, entries: Tensor | None) -> None:
        """Launch the sort alone, a thread a row: without `entries` it counts, with them it fills the bins."""
        args = (self.offset, self.mask, bins.begin, bins.counted, entries, self.plan.chunk_sizes, *chunk.scalars)
        self.kernels.launch("entries", (-(-int(chunk.scalars[1]) // THREADS),), (THREADS,), args)

    def sample(self, chunk: Chunk, columns: Tensor, bins: _Bins | None = None) -> None:
        """Write the chunk's columns, and count the entries for `bins`."""
        maps = (self.pixels, self.offset, self.mask, columns)
        if bins is None:
            self.launch_rows("sample", chunk, *maps)
        else:
            self.launch_rows("sample_and_count", chunk, *maps, bins.begin, bins.counted)


@dataclass
class _Bins:
    """The entries of a chunk, sorted by key."""

    begin: Tensor
    """(images * (keys + 1)) int32: zeros at first."""
    counted: Tensor
    """(images) int32: zeros at first."""
    entries: Tensor


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    modules: ModuleFactory = module,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the input's memory format: by one kernel where one serves, or by chunks.

    Args:
        input: (N, C, H, W).
        offset: (N, 2 * offset_groups * taps, Ho, Wo).
        mask: (N, offset_groups * taps, Ho, Wo).
        weight: (F, C / groups, kh, kw).
        bias: (F,).
        geometry: of the call.
        modules: where kernels come from.
        chunk_bytes: the most columns to hold; None: `chunks.budget`.
    """
    g, channels_last = geometry, memory_format(input) == torch.channels_last
    with on_stream(input):
        call = _Call(input, offset, mask, weight, g, modules, chunk_bytes, backward=False)
        if depthwise.serves(g):
            pixels = depthwise.forward(call, weight, bias)
        elif fused_dispatch.serves(call.pixels, call.filters, g):
            pixels = fused.forward(call.pixels, call.offset, call.mask, call.filters, bias, call.plan.sizes, g, modules)
        else:
            pixels = None
        if pixels is not None:
            by_image = pixels.view(g.batch, g.out_height, g.out_width, g.out_channels).permute(0, 3, 1, 2)
            return by_image.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        area, plan = g.out_height * g.out_width, call.plan
        output = call.empty(g.pixels, g.out_channels) if channels_last else call.empty(g.batch, g.out_channels, area)
        columns = call.empty(plan.most_rows, plan.width)
        for chunk in plan.chunks:
            size = chunk.stop - chunk.start
            call.sample(chunk, columns)
            sampled = columns if size == plan.most_rows else columns[:size]
            if channels_last:
                part = output if size == g.pixels else output[chunk.start : chunk.stop]
                matmul.rows_by_filters(sampled, call.filters, bias, part, g.groups)
            else:
                # The product turned round, so that it is written where it belongs.
                first, images = chunk.start - chunk.first_image * area, chunk.images
                part = output[chunk.first_image : chunk.first_image + images, :, first : first + size // images]
                matmul.filters_by_rows(call.filters, sampled, bias, part, g.groups)
    if channels_last:
        return output.view(g.batch, g.out_height, g.out_width, g.out_channels).permute(0, 3, 1, 2)
    return output.view(g.batch, g.out_channels, g.out_height, g.out_width)


def backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    geometry: ConvGeometry,
    needed: tuple[bool, bool, bool, bool],
    modules: ModuleFactory = module,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of input, offset, mask and weight; those not needed come back empty.

    Args:
        grad: (N, F, Ho, Wo).
        input: (N, C, H, W).
        offset: (N, 2 * offset_groups * taps, Ho, Wo).
        mask: (N, offset_groups * taps, Ho, Wo).
        weight: (F, C / groups, kh, kw).
        geometry: of the call.
        needed: which of the four gradients.
        modules: where kernels come from.
        chunk_bytes: the most columns to hold; None: `chunks.budget`.
    """
    with on_stream(grad):
        call = _Call(input, offset, mask, weight, geometry, modules, chunk_bytes, backward=needed[0])
        if depthwise.serves(geometry):
            found = depthwise.Backward(call, grad, weight, needed).compute()
            return _as_given(found, input, offset, mask, weight)
        work = _Backward(call, grad, needed)
        for number, chunk in enumerate(call.plan.chunks):
            work.chunk(number, chunk)
        return work.results(input, offset, mask, weight)


class _Backward:
    """One backward pass: its scratch and its results."""

    def __init__(self, call: _Call, grad: Tensor, needed: tuple[bool, bool, bool, bool]) -> None:
        g, plan = call.geometry, call.plan
        self.call, self.wants_input, self.wants_weight = call, needed[0], needed[3]
        self.wants_places = needed[1] or needed[2]
        self.grads = grad.permute(0, 2, 3, 1).reshape(g.pixels, g.out_channels)
        self.columns: Tensor | None = call.empty(plan.most_rows, plan.width)
        self.places: tuple[Tensor | None, Tensor | None] = (
            scratch(call.offset.shape, call.real, call.device) if needed[1] else None,
            scratch(call.mask.shape, call.real, call.device) if needed[2] and call.mask is not None else None,
        )
        self.whole = len(plan.chunks) == 1
        self.filters: Tensor | None = None
        if self.wants_weight and not plan.chunks:
            self.filters = call.filters.new_zeros(call.filters.shape)
        self.bins: _Bins | None = None
        self.pixels: Tensor | None = None
        if self.wants_input:
            self.counters = zeros(len(plan.chunks) * plan.most_images * (plan.keys + 2), torch.int32, call.device)
            self.entries = call.empty(plan.bin_bytes, dtype=torch.uint8)
            self.pixels = call.empty(g.batch, g.height, g.width, g.channels, dtype=plan.total)

    def chunk(self, number: int, chunk: Chunk) -> None:
        """Add a chunk's share to all results."""
        call, g, plan, size = self.call, self.call.geometry, self.call.plan, chunk.stop - chunk.start
        assert self.columns is not None
        columns = self.columns if size == plan.most_rows else self.columns[:size]
        grads = self.grads if size == g.pixels else self.grads[chunk.start : chunk.stop]
        bins = self._bins(number, chunk) if self.wants_input and plan.keys else None
        if self.wants_weight:
            call.sample(chunk, columns, bins)
            if self.whole:
                self.filters = call.empty(*call.filters.shape)
                matmul.sums(grads, columns, self.filters, g.groups)
            else:  # of several chunks in full precision
                self.filters = matmul.add_sums(grads, columns, self.filters, call.real, g.groups)
        elif bins is not None:
            call.launch_entries(chunk, bins, None)
        if bins is not None or self.wants_places:
            matmul.rows_by_depth(grads, call.filters, columns, g.groups)
        begin, entries = (None, None) if bins is None else (bins.begin, bins.entries)
        if self.wants_places:
            maps = (columns, call.pixels, call.offset, call.mask, *self.places)
            call.launch_rows("places_backward", chunk, *maps, begin, entries)
        elif bins is not None:
            call.launch_entries(chunk, bins, entries)
        if bins is not None:
            self._gather(chunk, columns, bins)

    def _bins(self, number: int, chunk: Chunk) -> _Bins:
        plan = self.call.plan
        each, first = plan.keys + 1, number * plan.most_images * (plan.keys + 2)
        begin = self.counters if number == 0 else self.counters[first:]
        return _Bins(begin, begin[chunk.images * each :], self.entries)

    def _gather(self, chunk: Chunk, columns: Tensor, bins: _Bins) -> None:
        """Let each key sum its entries."""
        call, plan, pixels = self.call, self.call.plan, self.pixels
        assert pixels is not None
        out = pixels if chunk.images == len(pixels) else pixels[chunk.first_image : chunk.first_image + chunk.images]
        blocks, of_image, block = plan.key_blocks
        kernels = call.kernels if plan.total == call.dtype else call.modules(_SOURCE, plan.total_prelude)
        kernels.launch(
            "gather",
            (chunk.images * blocks,),
            block,
            (columns, bins.entries, bins.begin, out, plan.chunk_sizes, of_image, np.int32(chunk.continues)),
        )

    def results(
        self, input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four gradients, in the arguments' dtypes and memory formats; scratch is let go before they are turned."""
        g = self.call.geometry
        self.columns = self.entries = self.counters = None  # type: ignore[assignment]
        grad_weight = None
        if self.filters is not None:
            grad_weight = self.filters.view(g.out_channels, *g.kernel, g.channels // g.groups).permute(0, 3, 1, 2)
        return _as_given((self.pixels, *self.places, grad_weight), input, offset, mask, weight)


def _as_given(
    grads: tuple[Tensor | None, ...], input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in the arguments' dtypes and memory formats; empty where there is none.

    Args:
        grads: of the input (N, H, W, C), the offset, the mask and the weight.
        input: the argument, as the others are.
        offset: likewise.
        mask: likewise.
        weight: likewise.
    """
    pixels, grad_offset, grad_mask, grad_weight = grads
    found = (
        None if pixels is None else pixels.permute(0, 3, 1, 2).to(input.dtype, memory_format=memory_format(input)),
        None if grad_offset is None else grad_offset.to(offset.dtype),
        None if grad_mask is None or mask is None else grad_mask.to(mask.dtype),
        None if grad_weight is None else grad_weight.to(weight.dtype, memory_format=memory_format(weight)),
    )
    return tuple(input.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]
