"""The loops of deformable convolution on a CPU, compiled by numba on first use and cached on disk.

Columns are S X with S sparse: a row for each (pixel, tap, offset group), four entries, the same for every channel of
the group. So sampling locations and weights are computed once a row, and channels are the contiguous, vectorised axis.

============  ==========================================  =====================================================
array         shape                                       meaning
============  ==========================================  =====================================================
pixels        (N * H * W * C,)                            input map, channels last
offset        (N, 2 * offset_groups * kh * kw, Ho * Wo)   offsets, y before x
mask          (N, offset_groups * kh * kw, Ho * Wo)       modulation; of size 0 without one
taps          (K, 2)                                      row and column of each tap for the first output pixel
segments      (S, 4)                                      runs of channels within one convolution group and one offset
                                                          group: first channel, length, offset group, column at tap 0
columns       (rows * K * C,)                             of output pixels `start`, ..: group by group, tap by tap
grad_places   (N * Ho * Wo, K, offset_groups, 3)          gradients of y, x and mask
============  ==========================================  =====================================================

Large arrays are flat and indexed by unsigned numbers. A slice would be an array object, whose count of references all
threads change with atomic instructions. A signed number would be tested for counting from the end.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dcnlab.ops.cpu.bilinear import (
    ALL,
    OPTIONS,
    add,
    blend,
    corners_of,
    dots,
    multiply,
    parted,
    some_dots,
    starts,
    times,
)
from dcnlab.ops.jit import njit


class Sizes(NamedTuple):
    """Sizes of a call."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    stride_y: int
    stride_x: int
    group_channels: int


class Arrays(NamedTuple):
    """What all loops read."""

    pixels: Any
    offset: Any
    mask: Any
    taps: Any
    segments: Any
    sizes: Sizes


@njit(**OPTIONS)
def sample(arrays, start, first, last, columns):
    """Write the columns of the output pixels `first` to `last`, counted over the whole batch."""
    pixels, offset, mask = arrays.pixels, arrays.offset, arrays.mask
    taps, segments, sizes = arrays.taps, arrays.segments, arrays.sizes
    channels, depth, out_width = sizes.channels, sizes.group_channels, sizes.out_width
    area, zero = sizes.out_height * out_width, type(pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, _, _, scale = corners_of(
                        offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    weights, factor = parted(weights, scale, zero)
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                blend(columns, to, pixels, bits, at, weights, length)
                if bits:
                    multiply(columns, to, factor, length)


@njit(**OPTIONS)
def places_backward(arrays, start, first, last, grad_columns, columns, grad_places):
    """Write the gradients of offsets and mask for the output pixels `first` to `last`, and their columns again.

    What has size 0 of `columns` and `grad_places` is skipped.
    """
    pixels, offset, mask = arrays.pixels, arrays.offset, arrays.mask
    taps, segments, sizes = arrays.taps, arrays.segments, arrays.sizes
    channels, depth, out_width = sizes.channels, sizes.group_channels, sizes.out_width
    area, zero = sizes.out_height * out_width, type(pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, y, x, scale = corners_of(
                        offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    s00 = s01 = s10 = s11 = zero
                    blended, factor = parted(weights, scale, zero)
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                if bits == ALL and columns.size:
                    d00, d01, d10, d11 = dots(grad_columns, columns, to, pixels, at, blended, length)
                else:
                    d00, d01, d10, d11 = some_dots(grad_columns, columns, to, pixels, bits, at, blended, length)
                if bits and columns.size:
                    multiply(columns, to, factor, length)
                s00, s01, s10, s11 = s00 + d00, s01 + d01, s10 + d10, s11 + d11
                if bits == 0:  # whatever the mask's factor
                    grad_places[pixel, tap, group, 0] = zero
                    grad_places[pixel, tap, group, 1] = zero
                    grad_places[pixel, tap, group, 2] = zero
                    continue
                w00, w01, w10, w11 = weights
                grad_places[pixel, tap, group, 0] = scale * ((s10 - s00) + x * ((s11 - s01) - (s10 - s00)))
                grad_places[pixel, tap, group, 1] = scale * ((s01 - s00) + y * ((s11 - s10) - (s01 - s00)))
                grad_places[pixel, tap, group, 2] = w00 * s00 + w01 * s01 + w10 * s10 + w11 * s11


@njit(**OPTIONS)
def scatter(arrays, start, first, last, low, high, grad_columns, grad_pixels):
    """Add the columns' gradient of the output pixels `first` to `last` to that of the input pixels `low` to `high`.

    Input pixels are counted over the batch. Calls for other input pixels touch other memory, and every sum runs in the
    order of the output pixels: repeatable without atomics, however the work is split.
    """
    offset, mask = arrays.offset, arrays.mask
    taps, segments, sizes = arrays.taps, arrays.segments, arrays.sizes
    channels, depth, out_width = sizes.channels, sizes.group_channels, sizes.out_width
    area, zero = sizes.out_height * out_width, type(grad_pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, _, _, scale = corners_of(
                        offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    weights = times(weights, scale, zero)
                if numbers[3] < low or numbers[0] >= high:
                    continue
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                for k in range(4):
                    if bits >> k & 1 and numbers[k] >= low and numbers[k] < high:
                        add(grad_pixels, at[k], weights[k], grad_columns, to, length)
