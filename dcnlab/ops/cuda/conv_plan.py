"""The plan of a deformable convolution on CUDA: chunks, variants and the kernels' sizes, from the sizes of the call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from dcnlab.ops.cuda import chunks, depthwise_sizes
from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.conv_variants import ROWS, THREADS, prelude, widest
from dcnlab.ops.cuda.kernel_arguments import DIVISOR, divisor, record
from dcnlab.ops.cuda.source import Prelude
from dcnlab.ops.geometry import ConvGeometry

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


@dataclass(frozen=True)
class Plan:
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
def plan(
    geometry: ConvGeometry, dtype: torch.dtype, alignment: int, backward: bool, chunk_bytes: int, index_limit: int
) -> Plan:
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
    if depthwise_sizes.serves(g):
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
        depthwise_sizes.largest(g) if depthwise_sizes.serves(g) else 0,
    )
    runs = (g.channels // g.groups, g.channels // g.offset_groups)
    read = (
        (depthwise_sizes.run(g),) if depthwise_sizes.serves(g) else runs
    )  # channels next to each other that are read alike
    vec, wide = widest(dtype, alignment, largest > index_limit, read)
    lanes = min(32, 1 << max(0, runs[1] // vec - 1).bit_length())
    maps = (g.height, g.width, g.channels, g.out_height, g.out_width)
    groups = 1 if depthwise_sizes.serves(g) else g.groups  # without columns a row is numbered as if it had a single one
    numbers = (*maps, *g.kernel, *g.stride, *g.padding, *g.dilation, groups, g.offset_groups)
    divided_by = (area, g.out_width, g.taps, g.kernel[1], g.offset_groups, runs[0])
    total = real if len(cut) > g.batch else dtype
    key_lines = THREADS // lanes  # neighbouring keys in one block, for they read many of the same columns
    blocks = -(-keys // key_lines)
    return Plan(
        record(numbers, _SIZES),
        record((numbers, *runs, keys, capacity, *map(divisor, divided_by)), _CHUNK_SIZES),
        prelude(dtype, vec, wide, dtype),
        total,
        prelude(dtype, vec, wide, total),
        width,
        cut,
        most_rows,
        most_images,
        (lanes, min(ROWS, THREADS // lanes)),
        keys,
        (blocks, np.int32(blocks), (lanes, key_lines)),
        most_images * capacity * (16 if wide or real == torch.float64 else 8),
    )
