"""Multi-scale deformable attention on CUDA: `cuda_kernels/ms_deform_attn.cu`.

Nothing here asks the GPU for a value: kernels read the shapes of the levels, and no size depends on them. All scratch
is torch's, so calls can be captured in a CUDA graph. The host-run tests call the same functions on CPU tensors with
kernels compiled by g++.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops import chunk_sizes
from dcnlab.ops.cuda.conv_variants import LONG, THREADS, builds, widest
from dcnlab.ops.cuda.kernel_arguments import DIVISOR, divisor, record
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory, module, on_stream
from dcnlab.ops.cuda.scratch import scratch, zeros
from dcnlab.ops.cuda.source import C_TYPES, Prelude, Variant
from dcnlab.ops.ms_deform_attn import AttentionArguments, AttentionGradients

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take."""

SOURCE = "ms_deform_attn.cu"
SPLIT = 32
"""Entries of a bin on average, at most: a pixel that many samples read has several bins."""
SUM_THREADS = 1024
"""Threads of the block that adds up the counts of an image."""

_DIVISORS = ("by_samples", "by_points", "by_heads", "by_queries", "by_length")
_SIZES = np.dtype(
    [
        *((name, np.int64) for name in ("length", "queries", "rows", "keys", "capacity")),
        *((name, np.int32) for name in ("heads", "channels", "levels", "points", "normalized")),
        *((name, DIVISOR) for name in _DIVISORS),
    ],
    align=True,
)


def _prelude(dtype: torch.dtype, vec: int, wide: bool) -> Prelude:
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "double" if dtype == torch.float64 else "float",
        "index_t": "long long" if wide else "int",
        "VEC": vec,
        "THREADS": THREADS,
        "LONG": LONG,
        "SPLIT": SPLIT,
    }


def variants() -> list[Variant]:
    """Every text that this operator may ask for."""
    return [
        Variant(SOURCE, _prelude(dtype, vec, wide), main=vec > 1 and not wide)
        for dtype in C_TYPES
        for vec, wide in builds(dtype)
    ]


class _Part(NamedTuple):
    """Queries of some images, whose entries are in memory at the same time."""

    images: slice
    queries: slice


class _Call:
    """What forward and backward share: arguments as the kernels want them."""

    def __init__(self, arguments: AttentionArguments, modules: ModuleFactory, grad: Tensor | None = None) -> None:
        value, _, _, locations, _, normalized = arguments
        self.dtype, self.device = value.dtype, value.device
        self.real = torch.float64 if value.dtype == torch.float64 else torch.float32
        self.batch, self.length, self.heads, self.channels = value.shape
        self.queries, self.levels, self.points = locations.shape[1], *locations.shape[3:5]
        self.normalized, self.samples = normalized, self.levels * self.points
        self.value = value.contiguous()
        self.shapes = arguments.spatial_shapes.contiguous(), arguments.level_start_index.contiguous()
        self.locations = locations.to(self.real).contiguous()
        self.weights = arguments.attention_weights.to(self.real).contiguous()
        self.grad = None if grad is None else grad.to(self.dtype).contiguous()
        self.parts = list(self._cut()) if grad is not None else []
        addresses = (self.value.data_ptr(), 0 if self.grad is None else self.grad.data_ptr())
        self.wide = self._largest() > INT_MAX
        build = widest(self.dtype, math.gcd(*addresses, 16), self.wide, (self.channels,))
        self.packs = self.channels // build[0]
        self.kernels: KernelModule = modules(SOURCE, _prelude(self.dtype, *build))

    def _cut(self) -> Iterator[_Part]:
        """Whole images, as many as fit; or, where one image's entries do not, some of its queries."""
        each = max(1, 4 * self.heads * self.samples)
        most = min(chunk_sizes.cuda_bytes() // self.entry_bytes(False), 2**31 - 1)  # bins are counted by 32 bits
        if each * self.queries <= most:
            images = max(1, most // max(1, each * self.queries))
            for first in range(0, self.batch, images):
                yield _Part(slice(first, min(first + images, self.batch)), slice(0, self.queries))
            return
        queries = max(1, most // each)
        for image in range(self.batch):
            for first in range(0, self.queries, queries):
                yield _Part(slice(image, image + 1), slice(first, min(first + queries, self.queries)))

    def entry_bytes(self, wide: bool) -> int:
        """Of an entry, a number and a weight: 16 where one of them has 64 bits."""
        return 16 if wide or self.real == torch.float64 else 8

    def bins(self, queries: int) -> int:
        """The most bins of an image, of so many queries: a level has one a pixel and head, and some more by SPLIT."""
        return self.heads * (self.length + self.levels * (4 * queries * self.points // SPLIT + 1))

    def sizes(self, images: int, queries: int) -> np.void:
        """The kernels' sizes of a chunk."""
        numbers = (self.length, queries, images * queries * self.heads)
        entries = (self.bins(queries), 4 * queries * self.heads * self.samples)
        divided_by = (self.samples, self.points, self.heads, queries, self.length)
        counts = (self.heads, self.channels, self.levels, self.points, int(self.normalized))
        return record((*numbers, *entries, *counts, *map(divisor, divided_by)), _SIZES)

    def _largest(self) -> int:
        """Of all tensors, the most elements; entries are counted within a part."""
        outputs = self.batch * self.queries * self.heads * self.channels
        images = max((part.images.stop - part.images.start for part in self.parts), default=0)
        queries = max((part.queries.stop - part.queries.start for part in self.parts), default=0)
        bins, entries = images * (self.bins(queries) + 1), 4 * images * queries * self.heads * self.samples
        return max(self.value.numel(), self.locations.numel(), outputs, bins, entries)

    def block(self) -> tuple[int, int]:
        """Threads over the loads of a row, a power of two, and over rows."""
        lanes = min(32, 1 << max(0, self.packs - 1).bit_length())
        return lanes, THREADS // lanes

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return scratch(shape, dtype, self.device)


def forward(arguments: AttentionArguments, modules: ModuleFactory = module) -> Tensor:
    """Compute the output, (N, Q, M * D)."""
    call = _Call(arguments, modules)
    output = call.empty(call.batch, call.queries, call.heads * call.channels, dtype=call.dtype)
    if not output.numel():
        return output
    if not call.value.numel() or not call.samples:
        return output.zero_()
    lanes, rows = call.block()
    blocks = -(-call.batch * call.queries * call.heads // rows) * -(-call.packs // lanes)
    tensors = (call.value, *call.shapes, call.locations, call.weights, output)
    call.kernels.launch("attend", (blocks,), (lanes, rows), (*tensors, call.sizes(call.batch, call.queries)))
    return output


def backward(
    grad: Tensor, arguments: AttentionArguments, needed: AttentionGradients[bool], modules: ModuleFactory = module
) -> AttentionGradients[Tensor | None]:
    """Compute the gradients that are needed."""
    call = _Call(arguments, modules, grad)
    if not grad.numel() or not call.value.numel() or not call.samples:
        return AttentionGradients(
            *(
                torch.zeros_like(tensor, memory_format=torch.contiguous_format) if need else None
                for tensor, need in zip((arguments.value, *arguments[3:5]), needed, strict=True)
            )
        )
    with on_stream(call.value):
        locations, weights = _places(call, needed)
        return AttentionGradients(
            _value(call) if needed.value else None,
            None if locations is None else locations.to(arguments.sampling_locations.dtype),
            None if weights is None else weights.to(arguments.attention_weights.dtype),
        )


def _places(call: _Call, needed: AttentionGradients[bool]) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of locations and weights."""
    locations = call.empty(*call.locations.shape, dtype=call.real) if needed.sampling_locations else None
    weights = call.empty(*call.weights.shape, dtype=call.real) if needed.attention_weights else None
    if locations is not None or weights is not None:
        lanes, rows = call.block()
        read = (call.grad, call.value, *call.shapes, call.locations, call.weights)
        call.kernels.launch(
            "attend_backward",
            (-(-call.batch * call.queries * call.heads // rows),),
            (lanes, rows),
            (*read, locations, weights, call.sizes(call.batch, call.queries)),
        )
    return locations, weights


def _value(call: _Call) -> Tensor:
    """The gradient of value: part by part, and added up in full precision where an image has several."""
    if call.parts[0].queries == slice(0, call.queries):
        total = call.empty(*call.value.shape, dtype=call.dtype)
        for part in call.parts:
            _gather(call, part, total[part.images])
        return total
    sums = zeros(call.value.numel(), call.real, call.device).view(call.value.shape)
    of_part = call.empty(1, *call.value.shape[1:], dtype=call.dtype)
    for part in call.parts:
        _gather(call, part, of_part)
        sums[part.images] += of_part
    return sums.to(call.dtype)


def _gather(call: _Call, part: _Part, total: Tensor) -> None:
    """Sort the entries of a part by pixel and head, and let each pixel and head add up its own."""
    assert call.grad is not None
    images, queries = part.images.stop - part.images.start, part.queries.stop - part.queries.start
    tensors = (call.grad, call.locations, call.weights)
    grad, locations, weights = (tensor[part.images, part.queries] for tensor in tensors)
    sizes, bins = call.sizes(images, queries), call.bins(queries)
    begin = zeros(images * (bins + 1), torch.int32, call.device)
    samples = images * queries * call.heads * call.samples
    entries = call.empty(4 * samples * call.entry_bytes(call.wide), dtype=torch.uint8)
    threads = (-(-samples // THREADS),)
    read = (*call.shapes, locations, weights, begin)
    call.kernels.launch("attention_entries", threads, (THREADS,), (*read, None, sizes))
    call.kernels.launch("attention_sums", (images,), (SUM_THREADS,), (begin, sizes))
    call.kernels.launch("attention_entries", threads, (THREADS,), (*read, entries, sizes))
    warps = images * call.length * call.heads
    call.kernels.launch(
        "attention_gather",
        (-(-warps * 32 // THREADS),),
        (THREADS,),
        (grad, *call.shapes, entries, begin, total, sizes, np.int64(warps), np.int32(call.block()[0])),
    )
