"""Chunks of output pixels, whose columns are in memory at the same time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dcnlab.ops.geometry import ConvGeometry

SMALL_BYTES = 8 << 20
"""So much is always allowed: below it launches cost more than memory."""

_ROUNDING = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of a chunk are multiples of the first that leaves no small rest: products work on tiles of 128 rows."""


@dataclass(frozen=True)
class Chunk:
    """A run of output pixels: whole images, or part of one."""

    start: int
    stop: int
    first_image: int
    images: int
    continues: bool
    """An earlier chunk holds output pixels of the same image."""
    scalars: tuple[np.int64, np.int64, np.int64]
    """What kernels take: start, rows of S, first image."""


def torchvision_bytes(geometry: ConvGeometry, dtype: torch.dtype, backward: bool) -> int:
    """Scratch of torchvision's operator on a GPU, by its source: all columns, and copies of the output or its gradient.

    It computes bfloat16 in float32, and takes up to 32 images at a time.
    """
    g = geometry
    itemsize = 4 if dtype == torch.bfloat16 else dtype.itemsize
    columns = min(g.batch, 32) * g.out_height * g.out_width * g.taps * g.channels
    return itemsize * (columns + (1 if backward else 2) * g.pixels * g.out_channels)


def row_limit(columns_bytes: int, sort_bytes: int, chunk_bytes: int, most_bytes: int) -> int:
    """Output pixels of the largest chunk.

    Args:
        columns_bytes: of one output pixel.
        sort_bytes: what else an output pixel takes while its columns are held.
        chunk_bytes: for columns.
        most_bytes: for both.
    """
    both = max(columns_bytes + sort_bytes, 1)
    return max(1, min(chunk_bytes // max(columns_bytes, 1), max(most_bytes, SMALL_BYTES) // both))


def cut(geometry: ConvGeometry, limit: int) -> tuple[Chunk, ...]:
    """Cut the batch into chunks of at most `limit` output pixels: whole images, or parts of each image.

    Chunks are as equal as can be; none is smaller than half the largest.
    """
    g, area = geometry, geometry.out_height * geometry.out_width
    rows = g.taps * g.offset_groups
    chunks = []

    def add(start: int, stop: int, image: int, images: int) -> None:
        scalars = (np.int64(start), np.int64((stop - start) * rows), np.int64(image))
        chunks.append(Chunk(start, stop, image, images, start > image * area, scalars))

    if g.pixels == 0:
        return ()
    if area <= limit:
        first = 0
        for images in _parts(g.batch, -(-g.batch // (limit // area))):
            add(first * area, (first + images) * area, first, images)
            first += images
        return tuple(chunks)
    sizes = part_sizes(area, limit)
    for image in range(g.batch):
        start = image * area
        for size in sizes:
            add(start, start + size, image, 1)
            start += size
    return tuple(chunks)


def part_sizes(area: int, limit: int) -> list[int]:
    """Rows of the parts of an image of `area` output pixels, of which at most `limit` are held."""
    for rounding in _ROUNDING:
        if rounding > limit:
            continue
        units = -(-area // rounding)
        sizes = [units * rounding for units in _parts(units, -(-units // (limit // rounding)))]
        sizes[-1] -= sum(sizes) - area
        if 2 * sizes[-1] >= sizes[0]:
            break
    return sizes


def _parts(whole: int, count: int) -> list[int]:
    """A whole number in `count` parts, the larger ones first; they differ by at most one."""
    least, larger = divmod(whole, count)
    return [least + 1] * larger + [least] * (count - larger)
