"""Bins of the deformable RoI poolings: the pixels along both axes that a bin reads, with their weights.

The samples of a bin form a grid, and skipping and clamping work per axis, so a bin is w_y^T F w_x: along each axis the
samples' bilinear weights are merged by pixel, and each pixel is read once however many samples touch it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dcnlab.ops.jit import njit
from dcnlab.ops.pool_geometry import MAX_SAMPLES

# Places decide between pixels, and between read and skipped: a reciprocal in the place of a division may not move them.
EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
FAST: dict[str, Any] = {**EXACT, "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
INLINE = {"forceinline": True}

# Below this many samples, testing each costs less than finding which lie on the map.
_FEW = 8


class Roi(NamedTuple):
    """A box in pixels of the map."""

    image: int
    x: float
    y: float
    width: float
    height: float


class Scratch(NamedTuple):
    """Buffers that a bin's samples are merged into: row 0 of the last three is the y axis, row 1 the x axis."""

    dense: Any
    """(2, longest): by pixel of an axis, weights and their derivatives; all zero between two bins."""
    at: Any
    """(2, longest): the pixels that the bin reads along each axis."""
    weight: Any
    slope: Any
    """The weights' derivatives by the sampling location."""


@njit(**EXACT, **INLINE)
def _round_half_away(value):
    whole = np.trunc(value)
    return whole + np.copysign(type(value)(1), value) if abs(value - whole) >= type(value)(0.5) else whole


@njit(**EXACT)
def roi_of(box, sensitive, batch, factors):
    """The image a box lies in (-1: none), and its start and size in pixels of the map.

    Sizes come from the corners' difference, so that an empty box is empty however the compiler fuses multiply and add.
    """
    real = type(box[0])
    scale, half = factors.scale, real(0.5)
    image = int(box[0]) if box[0] >= 0 and box[0] < batch else -1  # NaN is not an image
    if sensitive:
        x, y, least = _round_half_away(box[1]), _round_half_away(box[2]), real(0.1)
        width = (_round_half_away(box[3]) + real(1) - x) * scale
        height = (_round_half_away(box[4]) + real(1) - y) * scale
        width, height = least if width < least else width, least if height < least else height
        return Roi(image, x * scale - half, y * scale - half, width, height)
    x, y = box[1], box[2]
    return Roi(image, x * scale - half, y * scale - half, (box[3] - x) * scale, (box[4] - y) * scale)


@njit(**EXACT, **INLINE)
def _samples(sensitive, wanted, size, bins):
    """How many samples a bin has along an axis; 0 for empty, reversed, NaN and absurdly large boxes."""
    if sensitive or wanted > 0:
        return wanted
    number = np.ceil(np.float32(size / type(size)(bins)))
    return int(number) if number >= 1 and number <= MAX_SAMPLES else 0


@njit(**EXACT, **INLINE)
def _axis(sensitive, adaptive, start, bin_size, samples, size, dense, at, weight, slope):
    """Merge the samples of a bin along one axis by pixel.

    Writes the pixels, their weights and the weights' derivatives by the sampling location; returns their number.
    `dense` is (2, size) and all zero, before and after.
    """
    real = type(start)
    zero, half, one = real(0), real(0.5), real(1)
    if not np.isfinite(start):
        return 0
    first, last = 0, samples - 1
    if adaptive and samples > _FEW:  # a step is then between half a pixel and one; two samples spare for rounding
        step = bin_size / real(samples)
        first = int(min(max((-one - start) / step - real(2), zero), real(samples)))
        last = int(min(max((real(size) - start) / step + real(2), -one), real(samples - 1)))
    step = bin_size / real(samples)
    low_pixel, high_pixel, kept = size, -1, 0
    for i in range(first, last + 1):
        if sensitive:
            location = start + real(i) * step
            if not (location >= -half and location <= real(size) - half):
                continue
            location = min(max(location, zero), real(size - 1))
            low = int(np.floor(location))
            fraction = location - real(low)
            moves = fraction > 0
        else:
            location = start + (real(i) + half) * bin_size / real(samples)
            if not (location >= -one and location <= real(size)):
                continue
            moves = location >= 0
            low = int(np.floor(max(location, zero)))
            fraction = max(location, zero) - real(low)
            if low >= size - 1:
                low, fraction, moves = size - 1, zero, False
        kept += 1
        low_pixel, high_pixel = min(low_pixel, low), max(high_pixel, low)
        dense[0, low] += one - fraction
        if moves:
            high_pixel = max(high_pixel, low + 1)
            dense[0, low + 1] += fraction
            dense[1, low] -= one
            dense[1, low + 1] += one
    share = one / real(max(kept if sensitive else samples, 1))
    count = 0
    for pixel in range(low_pixel, high_pixel + 1):
        if dense[0, pixel] != 0 or dense[1, pixel] != 0:
            at[count], weight[count], slope[count] = pixel, dense[0, pixel] * share, dense[1, pixel] * share
            dense[0, pixel], dense[1, pixel] = zero, zero
            count += 1
    return count


@njit(**EXACT, **INLINE)
def merge_bin(sensitive, roi, offset, number, class_of, part_y, part_x, row, column, sizes, factors, scratch):
    """Merge both axes of one bin into scratch; returns the numbers of pixel rows and pixel columns."""
    dense, at, weight, slope = scratch  # unpacked, because fields by name count references in each bin
    real = type(roi.x)
    samples_y = _samples(sensitive, sizes.samples, roi.height, sizes.out_height)
    samples_x = _samples(sensitive, sizes.samples, roi.width, sizes.out_width)
    if samples_y == 0 or samples_x == 0:
        return 0, 0
    bin_height, bin_width = roi.height / real(sizes.out_height), roi.width / real(sizes.out_width)
    y, x = roi.y + real(row) * bin_height, roi.x + real(column) * bin_width
    if offset.size:
        x += offset[number, 2 * class_of, part_y, part_x] * factors.gamma * roi.width
        y += offset[number, 2 * class_of + 1, part_y, part_x] * factors.gamma * roi.height
    adaptive = sizes.samples == 0
    rows = _axis(sensitive, adaptive, y, bin_height, samples_y, sizes.height, dense, at[0], weight[0], slope[0])
    columns = _axis(sensitive, adaptive, x, bin_width, samples_x, sizes.width, dense, at[1], weight[1], slope[1])
    return rows, columns


@njit(**EXACT)
def scratch_of(real, sizes):
    """Scratch for the bins of one map."""
    longest = max(sizes.height, sizes.width)
    dense = np.zeros((2, longest), real)
    return Scratch(dense, np.empty((2, longest), np.int64), np.empty((2, longest), real), np.empty((2, longest), real))
