"""The loops of deformable convolution on a CPU, compiled by numba on first use and cached on disk.

Columns are S X with S sparse: a row for each (pixel, tap, offset group), four entries, the same for every channel of
the group. So sampling locations and weights are computed once a row, and channels are the contiguous, vectorised axis.

============  ==========================================  =====================================================
array         shape                                       meaning
============  ==========================================  =====================================================
pixels        (N * H * W * C,)                            input map, channels last
shift         (N, 2 * offset_groups * kh * kw, Ho * Wo)   offsets, y before x
mask          (N, offset_groups * kh * kw, Ho * Wo)       modulation; of size 0 without one
taps          (K, 2)                                      row and column of each tap for the first output pixel
segments      (S, 4)                                      runs of channels within one convolution group and one offset
                                                          group: first channel, length, offset group, column at tap 0
columns       (rows * K * C,)                             of output pixels `start`, ..: group by group, tap by tap
grad_places   (N * Ho * Wo, K, offset_groups, 3)          gradients of y, x and mask
============  ==========================================  =====================================================

``sizes`` is (H, W, C, Ho, Wo, stride y, stride x, channels of a convolution group).

Large arrays are flat and indexed by unsigned numbers. A slice would be an array object, whose count of references all
threads change with atomic instructions. A signed number would be tested for counting from the end.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from dcnlab.ops.cpu.numba_callbacks import next_part, pointer, vector
from dcnlab.ops.jit import callback, njit

# Everything fast except assuming that there are no NaN and infinities: the bounds test relies on them.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
_INLINE = _OPTIONS | {"forceinline": True}
_ALL = 15  # bits of the four corners


@njit(**_INLINE)
def _corners(y, x, height, width, zero):
    """Four pixel numbers and weights around a location, the fractions, and the corners on the map (bits 0 to 3).

    Corners off the map weigh nothing and give the number of some pixel, which may be infinite: it is not to be read.
    Bits are 0 where nothing is read, as for NaN, which fails the test.
    """
    if not (y > -1 and y < height and x > -1 and x < width):
        return 0, (0, 0, 0, 0), (zero, zero, zero, zero), zero, zero
    one = zero + type(zero)(1)
    top, left = np.floor(y), np.floor(x)
    fraction_y, fraction_x = y - top, x - left
    row, column = int(top), int(left)
    rest_y, rest_x = one - fraction_y, one - fraction_x
    above, below = row >= 0, row + 1 < height
    before, behind = column >= 0, column + 1 < width
    low_row, high_row = max(row, 0), min(row + 1, height - 1)
    low_column, high_column = max(column, 0), min(column + 1, width - 1)
    bits = (above & before) | (above & behind) << 1 | (below & before) << 2 | (below & behind) << 3
    numbers = (
        low_row * width + low_column,
        low_row * width + high_column,
        high_row * width + low_column,
        high_row * width + high_column,
    )
    weights = (
        rest_y * rest_x if bits & 1 else zero,
        rest_y * fraction_x if bits & 2 else zero,
        fraction_y * rest_x if bits & 4 else zero,
        fraction_y * fraction_x if bits & 8 else zero,
    )
    return bits, numbers, weights, fraction_y, fraction_x


@njit(**_INLINE)
def _row(shift, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero):
    """Corners of a tap's sampling location for an output pixel, numbered over the batch, and the mask's factor."""
    height, width, _, _, _, stride_y, stride_x, _ = sizes
    real, number = type(zero), group * taps.shape[0] + tap
    y = real(out_y * stride_y + taps[tap, 0]) + shift[image, 2 * number, position]
    x = real(out_x * stride_x + taps[tap, 1]) + shift[image, 2 * number + 1, position]
    bits, (p00, p01, p10, p11), weights, fraction_y, fraction_x = _corners(y, x, height, width, zero)
    first = image * height * width
    numbers = first + p00, first + p01, first + p10, first + p11
    return bits, numbers, weights, fraction_y, fraction_x, mask[image, number, position] if mask.size else real(1)


@njit(**_INLINE)
def _times(weights, scale, zero):
    """Corners' weights times the mask's factor; a weight of zero stays so, were the factor infinite."""
    w00, w01, w10, w11 = weights
    return (
        w00 * scale if w00 != 0 else zero,
        w01 * scale if w01 != 0 else zero,
        w10 * scale if w10 != 0 else zero,
        w11 * scale if w11 != 0 else zero,
    )


@njit(**_INLINE)
def _parted(weights, scale, zero):
    """The weights with which a row's columns are blended, and what multiplies them afterwards.

    An infinite factor multiplies the sum: multiplying its parts could take infinity from infinity.
    """
    if np.isfinite(scale):
        return _times(weights, scale, zero), zero + type(zero)(1)
    return weights, scale


@njit(**_INLINE)
def _multiply(columns, to, factor, length):
    if factor != 1:  # NaN differs
        for c in range(length):
            columns[to + c] *= factor


@njit(**_INLINE)
def _starts(numbers, channels, channel):
    """Where `channel` of four pixels lies."""
    p00, p01, p10, p11 = numbers
    return (
        np.uint64(p00 * channels + channel),
        np.uint64(p01 * channels + channel),
        np.uint64(p10 * channels + channel),
        np.uint64(p11 * channels + channel),
    )


@njit(**_INLINE)
def _add(total, to, weight, values, at, length):
    for c in range(length):
        total[to + c] += weight * values[at + c]


@njit(**_INLINE)
def _blend(columns, to, pixels, bits, at, weights, length):
    """Write a row's columns: its pixels by their weights."""
    if bits == _ALL:
        (q00, q01, q10, q11), (w00, w01, w10, w11) = at, weights
        for c in range(length):
            columns[to + c] = (
                w00 * pixels[q00 + c] + w01 * pixels[q01 + c] + w10 * pixels[q10 + c] + w11 * pixels[q11 + c]
            )
        return
    for c in range(length):
        columns[to + c] = 0
    for k in range(4):
        if bits >> k & 1:
            _add(columns, to, weights[k], pixels, at[k], length)


@njit(**_INLINE)
def _dot(a, from_a, b, from_b, length):
    total = type(a[0])(0)
    for c in range(length):
        total += a[from_a + c] * b[from_b + c]
    return total


@njit(**_INLINE)
def _dots(grads, columns, to, pixels, at, weights, length):
    """Dot products of a row of the columns' gradient with its four pixels; in the same pass the row's columns."""
    (q00, q01, q10, q11), (w00, w01, w10, w11) = at, weights
    d00 = d01 = d10 = d11 = type(pixels[0])(0)
    for c in range(length):
        grad = grads[to + c]
        v00, v01, v10, v11 = pixels[q00 + c], pixels[q01 + c], pixels[q10 + c], pixels[q11 + c]
        d00 += grad * v00
        d01 += grad * v01
        d10 += grad * v10
        d11 += grad * v11
        columns[to + c] = w00 * v00 + w01 * v01 + w10 * v10 + w11 * v11
    return d00, d01, d10, d11


@njit(**_OPTIONS)
def _some_dots(grads, columns, to, pixels, bits, at, weights, length):
    """The same where some pixels are off the map, which give 0, or no columns are wanted."""
    q00, q01, q10, q11 = at
    zero = type(pixels[0])(0)
    if columns.size:
        _blend(columns, to, pixels, bits, at, weights, length)
    return (
        _dot(grads, to, pixels, q00, length) if bits & 1 else zero,
        _dot(grads, to, pixels, q01, length) if bits & 2 else zero,
        _dot(grads, to, pixels, q10, length) if bits & 4 else zero,
        _dot(grads, to, pixels, q11, length) if bits & 8 else zero,
    )


@njit(**_OPTIONS)
def sample(pixels, shift, mask, taps, segments, sizes, start, first, last, columns):
    """Write the columns of the output pixels `first` to `last`, counted over the whole batch."""
    _, _, channels, out_height, out_width, _, _, depth = sizes
    area, zero = out_height * out_width, type(pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, _, _, scale = _row(
                        shift, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    weights, factor = _parted(weights, scale, zero)
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = _starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                _blend(columns, to, pixels, bits, at, weights, length)
                if bits:
                    _multiply(columns, to, factor, length)


@njit(**_OPTIONS)
def places_backward(pixels, shift, mask, taps, segments, sizes, start, first, last, grad_columns, columns, grad_places):
    """Write the gradients of offsets and mask for the output pixels `first` to `last`, and their columns again.

    What has size 0 of `columns` and `grad_places` is skipped.
    """
    _, _, channels, out_height, out_width, _, _, depth = sizes
    area, zero = out_height * out_width, type(pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, y, x, scale = _row(
                        shift, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    s00 = s01 = s10 = s11 = zero
                    blended, factor = _parted(weights, scale, zero)
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = _starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                if bits == _ALL and columns.size:
                    d00, d01, d10, d11 = _dots(grad_columns, columns, to, pixels, at, blended, length)
                else:
                    d00, d01, d10, d11 = _some_dots(grad_columns, columns, to, pixels, bits, at, blended, length)
                if bits and columns.size:
                    _multiply(columns, to, factor, length)
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


@njit(**_OPTIONS)
def scatter(shift, mask, taps, segments, sizes, start, first, last, low, high, grad_columns, grad_pixels):
    """Add the columns' gradient of the output pixels `first` to `last` to that of the input pixels `low` to `high`.

    Input pixels are counted over the batch. Calls for other input pixels touch other memory, and every sum runs in the
    order of the output pixels: repeatable without atomics, however the work is split.
    """
    _, _, channels, out_height, out_width, _, _, depth = sizes
    area, zero = out_height * out_width, type(grad_pixels[0])(0)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * taps.shape[0] * channels
        for tap in range(taps.shape[0]):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, _, _, scale = _row(
                        shift, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    weights = _times(weights, scale, zero)
                if numbers[3] < low or numbers[0] >= high:
                    continue
                to = np.uint64(line + segments[segment, 3] + tap * depth)
                at, length = _starts(numbers, channels, segments[segment, 0]), np.uint64(segments[segment, 1])
                for k in range(4):
                    if bits >> k & 1 and numbers[k] >= low and numbers[k] < high:
                        _add(grad_pixels, at[k], weights[k], grad_columns, to, length)


# ---- The loops as functions of one address (native.py). The table: count and start of output pixels, at 2 and 3; the
# shared arrays from 4 on, and the sizes; then, from 28 on, the loop's own. ----


@njit(**_INLINE)
def _shared(table, real):
    """Pixels, shift, mask, taps, segments and sizes."""
    return (
        vector(table, 4, real),
        carray(pointer(table[6]), (table[7], table[8], table[9]), real),
        carray(pointer(table[10]), (table[11], table[12], table[13]), real),
        carray(pointer(table[14]), (table[15], table[16]), np.int64),
        carray(pointer(table[17]), (table[18], table[19]), np.int64),
        (table[20], table[21], table[22], table[23], table[24], table[25], table[26], table[27]),
    )


@cache
def sampling(real: type) -> int:
    """The address of `sample`; in addition: the columns."""

    def body(address):
        table = carray(address, (30,), np.int64)
        pixels, shift, mask, taps, segments, sizes = _shared(table, real)
        columns = vector(table, 28, real)
        while True:
            part = next_part(table)
            if part >= table[1]:
                return
            first, last = table[2] * part // table[1], table[2] * (part + 1) // table[1]
            start = table[3]
            sample(pixels, shift, mask, taps, segments, sizes, start, start + first, start + last, columns)

    return callback(body)


@cache
def gradients_of_places(real: type) -> int:
    """The address of `places_backward`; in addition: the columns' gradient, the columns, the offsets' gradient."""

    def body(address):
        table = carray(address, (37,), np.int64)
        pixels, shift, mask, taps, segments, sizes = _shared(table, real)
        grad_columns, columns = vector(table, 28, real), vector(table, 30, real)
        grad_places = carray(pointer(table[32]), (table[33], table[34], table[35], table[36]), real)
        while True:
            part = next_part(table)
            if part >= table[1]:
                return
            first, last = table[2] * part // table[1], table[2] * (part + 1) // table[1]
            start = table[3]
            rows = start, start + first, start + last
            places_backward(pixels, shift, mask, taps, segments, sizes, *rows, grad_columns, columns, grad_places)

    return callback(body)


@cache
def scattering(real: type) -> int:
    """The address of `scatter`; in addition: each part's first, last, low and high, both gradients."""

    def body(address):
        table = carray(address, (35,), np.int64)
        _, shift, mask, taps, segments, sizes = _shared(table, real)
        parts = carray(pointer(table[28]), (table[29], table[30]), np.int64)
        grad_columns, grad_pixels = vector(table, 31, real), vector(table, 33, real)
        while True:
            part = next_part(table)
            if part >= table[1]:
                return
            first, last, low, high = parts[part, 0], parts[part, 1], parts[part, 2], parts[part, 3]
            scatter(shift, mask, taps, segments, sizes, table[3], first, last, low, high, grad_columns, grad_pixels)

    return callback(body)
