"""The loops of deformable convolution on a CPU, compiled by numba on first use and cached on disk.

Columns are S X with S sparse: a row for each (pixel, tap, offset group), four entries, the same for every channel of
the group. So places and weights are computed once a row, and channels are the contiguous, vectorised axis.

==========  ==========================================  =====================================================
array       shape                                       meaning
==========  ==========================================  =====================================================
pixels      (N * H * W * C,)                            input map, channels last
shift       (N, 2 * offset_groups * kh * kw, Ho * Wo)   offsets, y before x
mask        (N, offset_groups * kh * kw, Ho * Wo)       modulation; of size 0 where there is none
segments    (S, 4)                                      runs of channels within one convolution group and one offset
                                                        group: first channel, length, offset group, column at tap 0
columns     (rows, K * C)                               of output pixels `start`, ..: group by group, tap by tap
partial     (rows, K, offset_groups, 3)                 sums over channels for the gradient of y, x and mask
==========  ==========================================  =====================================================

``sizes`` is (H, W, C, Ho, Wo, kh, kw, stride y, x, padding y, x, dilation y, x, channels of a convolution group).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Everything fast except assuming that there are no NaN and infinities: the bounds test relies on them.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}


@njit(**_OPTIONS)
def _corners(y, x, height, width, zero):
    """Four pixel numbers and weights around a place, the fractions, and which corners are on the map (bits 0 to 3).

    Corners off the map weigh nothing and give the number of some pixel. Bits are 0 where nothing is read, as for
    NaN, which fails the test.
    """
    if not (y > -1 and y < height and x > -1 and x < width):
        return 0, 0, 0, 0, 0, zero, zero, zero, zero, zero, zero
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
    return (
        bits,
        low_row * width + low_column,
        low_row * width + high_column,
        high_row * width + low_column,
        high_row * width + high_column,
        rest_y * rest_x if bits & 1 else zero,
        rest_y * fraction_x if bits & 2 else zero,
        fraction_y * rest_x if bits & 4 else zero,
        fraction_y * fraction_x if bits & 8 else zero,
        fraction_y,
        fraction_x,
    )


@njit(**_OPTIONS)
def _channels(pixels, at, length, on_map, blank):
    """A pixel's channels, or zeros off the map: a weight of zero is not enough where the pixel read is infinite."""
    return pixels[at:][:length] if on_map else blank[:length]


@njit(**_OPTIONS)
def _place(shift, image, position, group, tap, sizes):
    """Fractional row and column that a tap reads for an output pixel, in the dtype of the offsets."""
    _, _, _, _, out_width, kh, kw, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, _ = sizes
    real = type(shift[0, 0, 0])
    channel = 2 * (group * kh * kw + tap)
    y = real(position // out_width * stride_y - padding_y + tap // kw * dilation_y) + shift[image, channel, position]
    x = real(position % out_width * stride_x - padding_x + tap % kw * dilation_x) + shift[image, channel + 1, position]
    return y, x


@njit(**_OPTIONS)
def sample(pixels, shift, mask, segments, sizes, start, first, last, columns):
    """Write the columns of the output pixels `first` to `last`, counted over the whole batch."""
    height, width, channels, out_height, out_width, kh, kw = sizes[:7]
    taps, area, zero = kh * kw, out_height * out_width, type(pixels[0])(0)
    blank = np.zeros(channels, pixels.dtype)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        origin = image * height * width
        row = columns[pixel - start]
        for tap in range(taps):
            group = -1
            for segment in range(segments.shape[0]):
                channel, length = segments[segment, 0], segments[segment, 1]
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    y, x = _place(shift, image, position, group, tap, sizes)
                    bits, p00, p01, p10, p11, w00, w01, w10, w11, _, _ = _corners(y, x, height, width, zero)
                    if mask.size:
                        scale = mask[image, group * taps + tap, position]
                        w00, w01, w10, w11 = w00 * scale, w01 * scale, w10 * scale, w11 * scale
                at = segments[segment, 3] + tap * sizes[13]
                column = row[at : at + length]
                if bits == 0:
                    column[:] = zero
                    continue
                v00 = _channels(pixels, (origin + p00) * channels + channel, length, bits & 1, blank)
                v01 = _channels(pixels, (origin + p01) * channels + channel, length, bits & 2, blank)
                v10 = _channels(pixels, (origin + p10) * channels + channel, length, bits & 4, blank)
                v11 = _channels(pixels, (origin + p11) * channels + channel, length, bits & 8, blank)
                for c in range(length):
                    column[c] = w00 * v00[c] + w01 * v01[c] + w10 * v10[c] + w11 * v11[c]


@njit(**_OPTIONS)
def _add(total, weight, values):
    for c in range(values.size):
        total[c] += weight * values[c]


@njit(**_OPTIONS)
def backward(pixels, shift, mask, segments, sizes, start, first, last, grad_columns, columns, partial, grad_pixels):
    """Take the columns' gradient back to the input, the offsets and the mask, and sample the columns again.

    Each output is skipped where its array has size 0. Parts with other images or other segments touch other memory,
    and every sum runs in the order of the pixels: repeatable without atomics.
    """
    height, width, channels, out_height, out_width, kh, kw = sizes[:7]
    taps, area, zero = kh * kw, out_height * out_width, type(pixels[0])(0)
    blank = np.zeros(channels, pixels.dtype)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        origin, line = image * height * width, pixel - start
        for tap in range(taps):
            group = -1
            for segment in range(segments.shape[0]):
                channel, length = segments[segment, 0], segments[segment, 1]
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    y, x = _place(shift, image, position, group, tap, sizes)
                    bits, p00, p01, p10, p11, w00, w01, w10, w11, ey, ex = _corners(y, x, height, width, zero)
                    scale = mask[image, group * taps + tap, position] if mask.size else type(pixels[0])(1)
                at = segments[segment, 3] + tap * sizes[13]
                if bits == 0:
                    if columns.size:
                        columns[line, at : at + length] = zero
                    continue
                grad = grad_columns[line, at : at + length]
                q00 = (origin + p00) * channels + channel
                q01 = (origin + p01) * channels + channel
                q10 = (origin + p10) * channels + channel
                q11 = (origin + p11) * channels + channel
                v00 = _channels(pixels, q00, length, bits & 1, blank)
                v01 = _channels(pixels, q01, length, bits & 2, blank)
                v10 = _channels(pixels, q10, length, bits & 4, blank)
                v11 = _channels(pixels, q11, length, bits & 8, blank)
                if partial.size:
                    s00 = s01 = s10 = s11 = zero
                    for c in range(length):
                        s00 += grad[c] * v00[c]
                        s01 += grad[c] * v01[c]
                        s10 += grad[c] * v10[c]
                        s11 += grad[c] * v11[c]
                    sums = partial[line, tap, group]
                    sums[2] += w00 * s00 + w01 * s01 + w10 * s10 + w11 * s11
                    sums[0] += scale * ((s10 - s00) + ex * ((s11 - s01) - (s10 - s00)))
                    sums[1] += scale * ((s01 - s00) + ey * ((s11 - s10) - (s01 - s00)))
                if columns.size:
                    column = columns[line, at : at + length]
                    t00, t01, t10, t11 = w00 * scale, w01 * scale, w10 * scale, w11 * scale
                    for c in range(length):
                        column[c] = t00 * v00[c] + t01 * v01[c] + t10 * v10[c] + t11 * v11[c]
                if grad_pixels.size:
                    if bits & 1:
                        _add(grad_pixels[q00:], w00 * scale, grad)
                    if bits & 2:
                        _add(grad_pixels[q01:], w01 * scale, grad)
                    if bits & 4:
                        _add(grad_pixels[q10:], w10 * scale, grad)
                    if bits & 8:
                        _add(grad_pixels[q11:], w11 * scale, grad)
