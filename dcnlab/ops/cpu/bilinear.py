"""Bilinear reading of a channels-last map at a tap's sampling location: parts of the loops of deformable convolution.

Arrays are those of deform_conv2d_kernels. All functions are inlined into its loops.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.ops.jit import njit

# Everything fast except assuming that there are no NaN and infinities: the bounds test relies on them.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
INLINE = OPTIONS | {"forceinline": True}
ALL = 15
"""Bits of the four corners."""


@njit(**INLINE)
def corners(y, x, height, width, zero):
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


@njit(**INLINE)
def corners_of(offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero):
    """Corners of a tap's sampling location for an output pixel, numbered over the batch, and the mask's factor."""
    height, width = sizes.height, sizes.width
    real, number = type(zero), group * taps.shape[0] + tap
    y = real(out_y * sizes.stride_y + taps[tap, 0]) + offset[image, 2 * number, position]
    x = real(out_x * sizes.stride_x + taps[tap, 1]) + offset[image, 2 * number + 1, position]
    bits, (p00, p01, p10, p11), weights, fraction_y, fraction_x = corners(y, x, height, width, zero)
    first = image * height * width
    numbers = first + p00, first + p01, first + p10, first + p11
    return bits, numbers, weights, fraction_y, fraction_x, mask[image, number, position] if mask.size else real(1)


@njit(**INLINE)
def times(weights, scale, zero):
    """Corners' weights times the mask's factor; a weight of zero stays so, were the factor infinite."""
    w00, w01, w10, w11 = weights
    return (
        w00 * scale if w00 != 0 else zero,
        w01 * scale if w01 != 0 else zero,
        w10 * scale if w10 != 0 else zero,
        w11 * scale if w11 != 0 else zero,
    )


@njit(**INLINE)
def parted(weights, scale, zero):
    """The weights with which a row's columns are blended, and what multiplies them afterwards.

    An infinite factor multiplies the sum: multiplying its parts could take infinity from infinity.
    """
    if np.isfinite(scale):
        return times(weights, scale, zero), zero + type(zero)(1)
    return weights, scale


@njit(**INLINE)
def multiply(columns, to, factor, length):
    """Multiply a row's columns by a factor."""
    if factor != 1:  # NaN differs
        for c in range(length):
            columns[to + c] *= factor


@njit(**INLINE)
def starts(numbers, channels, channel):
    """Where `channel` of four pixels lies."""
    p00, p01, p10, p11 = numbers
    return (
        np.uint64(p00 * channels + channel),
        np.uint64(p01 * channels + channel),
        np.uint64(p10 * channels + channel),
        np.uint64(p11 * channels + channel),
    )


@njit(**INLINE)
def add(total, to, weight, values, at, length):
    """Add values times a weight to a total."""
    for c in range(length):
        total[to + c] += weight * values[at + c]


@njit(**INLINE)
def blend(columns, to, pixels, bits, at, weights, length):
    """Write a row's columns: its pixels by their weights."""
    if bits == ALL:
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
            add(columns, to, weights[k], pixels, at[k], length)


@njit(**INLINE)
def _dot(a, from_a, b, from_b, length):
    total = type(a[0])(0)
    for c in range(length):
        total += a[from_a + c] * b[from_b + c]
    return total


@njit(**INLINE)
def dots(grads, columns, to, pixels, at, weights, length):
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


@njit(**OPTIONS)
def some_dots(grads, columns, to, pixels, bits, at, weights, length):
    """The same where some pixels are off the map, which give 0, or no columns are wanted."""
    q00, q01, q10, q11 = at
    zero = type(pixels[0])(0)
    if columns.size:
        blend(columns, to, pixels, bits, at, weights, length)
    return (
        _dot(grads, to, pixels, q00, length) if bits & 1 else zero,
        _dot(grads, to, pixels, q01, length) if bits & 2 else zero,
        _dot(grads, to, pixels, q10, length) if bits & 4 else zero,
        _dot(grads, to, pixels, q11, length) if bits & 8 else zero,
    )
