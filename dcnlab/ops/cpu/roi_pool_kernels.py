"""The loops of both deformable RoI poolings on a CPU, compiled by numba on first use and cached on disk.

The samples of a bin form a grid, and skipping and clamping work per axis, so a bin is w_y^T F w_x: along each axis the
samples' bilinear weights are merged by pixel, and each pixel is read once however many samples touch it. Geometry
belongs to the bin (of a class), not to the channel; channels are the contiguous, vectorised axis.

==========  ============================================  ===================================================
array       shape                                         meaning
==========  ============================================  ===================================================
pixels      (N * G * G * H * W * K,)                      input map by group cell, its K channels last
boxes       (R, 5)                                        image number, x1, y1, x2, y2
offset      (R, 2 * classes, parts y, parts x)            x before y; of size 0 without offsets
parts       (out height), (out width)                     the offset's cell for each row and column of bins
segments    (S, 3)                                        runs of channels within one class: first, length, class
output      (R * out height * out width * K,)             channels last
grad        flat                                          gradient of the output, wherever its strides lead
partial     (S, R, out height, out width, 2)              gradient of each bin's offset, x before y
==========  ============================================  ===================================================

``sizes`` is (N, H, W, K, G, out height, out width, samples along an axis or 0); ``factors`` is (spatial_scale, gamma);
``strides`` is the gradient's, box, channel, row, column.
``sensitive`` chooses the rule: position-sensitive pooling's, or the RoIAlign-style one's. Large arrays are flat and
indexed by unsigned numbers, for the reasons that deform_conv2d_kernels gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg"
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from dcnlab.ops.cpu.numba_callbacks import next_part, pointer, vector
from dcnlab.ops.jit import callback, njit
from dcnlab.ops.pool_geometry import MAX_SAMPLES

# Places decide between pixels, and between read and skipped: a reciprocal in the place of a division may not move them.
_EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_FAST: dict[str, Any] = {**_EXACT, "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
_INLINE = {"forceinline": True}

# Runs of channels up to this length are summed one by one, over the pixels: a vector would be mostly empty.
_SHORT = 3

# Below this many samples, testing each costs less than finding which lie on the map.
_FEW = 8


@njit(**_EXACT, **_INLINE)
def _round_half_away(value):
    whole = np.trunc(value)
    return whole + np.copysign(type(value)(1), value) if abs(value - whole) >= type(value)(0.5) else whole


@njit(**_EXACT)
def _roi(box, sensitive, batch, factors):
    """The image a box lies in (-1: none) and its start and size in pixels of the map: image, x, y, width, height.

    Sizes come from the corners' difference, so that an empty box is empty however the compiler fuses multiply and add.
    """
    real = type(box[0])
    scale, half = factors[0], real(0.5)
    image = int(box[0]) if box[0] >= 0 and box[0] < batch else -1  # NaN is no image
    if sensitive:
        x, y, least = _round_half_away(box[1]), _round_half_away(box[2]), real(0.1)
        width = (_round_half_away(box[3]) + real(1) - x) * scale
        height = (_round_half_away(box[4]) + real(1) - y) * scale
        width, height = least if width < least else width, least if height < least else height
        return image, x * scale - half, y * scale - half, width, height
    x, y = box[1], box[2]
    return image, x * scale - half, y * scale - half, (box[3] - x) * scale, (box[4] - y) * scale


@njit(**_EXACT, **_INLINE)
def _samples(sensitive, wanted, size, bins):
    """How many samples a bin has along an axis; 0 for empty, reversed, NaN and absurdly large boxes."""
    if sensitive or wanted > 0:
        return wanted
    number = np.ceil(np.float32(size / type(size)(bins)))
    return int(number) if number >= 1 and number <= MAX_SAMPLES else 0


@njit(**_EXACT, **_INLINE)
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
            place = start + real(i) * step
            if not (place >= -half and place <= real(size) - half):
                continue
            place = min(max(place, zero), real(size - 1))
            low = int(np.floor(place))
            fraction = place - real(low)
            moves = fraction > 0
        else:
            place = start + (real(i) + half) * bin_size / real(samples)
            if not (place >= -one and place <= real(size)):
                continue
            moves = place >= 0
            low = int(np.floor(max(place, zero)))
            fraction = max(place, zero) - real(low)
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


@njit(**_EXACT, **_INLINE)
def _bin(sensitive, roi, offset, number, class_of, part, row, column, sizes, factors, scratch):
    """Merge both axes of one bin into scratch; returns the numbers of pixel rows and pixel columns."""
    _, map_height, map_width, _, _, out_height, out_width, wanted = sizes
    _, x, y, width, height = roi
    dense, at, weight, slope = scratch
    real = type(x)
    samples_y, samples_x = (
        _samples(sensitive, wanted, height, out_height),
        _samples(sensitive, wanted, width, out_width),
    )
    if samples_y == 0 or samples_x == 0:
        return 0, 0
    bin_height, bin_width = height / real(out_height), width / real(out_width)
    y, x = y + real(row) * bin_height, x + real(column) * bin_width
    if offset.size:
        x += offset[number, 2 * class_of, part[0], part[1]] * factors[1] * width
        y += offset[number, 2 * class_of + 1, part[0], part[1]] * factors[1] * height
    adaptive = wanted == 0
    rows = _axis(sensitive, adaptive, y, bin_height, samples_y, map_height, dense, at[0], weight[0], slope[0])
    columns = _axis(sensitive, adaptive, x, bin_width, samples_x, map_width, dense, at[1], weight[1], slope[1])
    return rows, columns


@njit(**_EXACT)
def _scratch(real, sizes):
    longest = max(sizes[1], sizes[2])
    dense = np.zeros((2, longest), real)
    return dense, np.empty((2, longest), np.int64), np.empty((2, longest), real), np.empty((2, longest), real)


@njit(**_FAST, **_INLINE)
def _read(pixels, origin, sizes, at, weight, rows, columns, output, to, length):
    """Sum a bin's pixels by their weights, for `length` channels; four pixels at a time."""
    line_width, channels = sizes[2] * sizes[3], sizes[3]
    if length <= _SHORT:
        for c in range(length):
            total = type(output[0])(0)
            for i in range(rows):
                line = origin + c + at[0, i] * line_width
                of_row = type(output[0])(0)
                for j in range(columns):
                    of_row += weight[1, j] * pixels[np.uint64(line + at[1, j] * channels)]
                total += weight[0, i] * of_row
            output[to + c] = total
        return
    first, run = np.uint64(to), np.uint64(length)
    for i in range(rows):
        line, weight_y = origin + at[0, i] * line_width, weight[0, i]
        j = 0
        while j + 4 <= columns:
            p0, w0 = np.uint64(line + at[1, j] * channels), weight_y * weight[1, j]
            p1, w1 = np.uint64(line + at[1, j + 1] * channels), weight_y * weight[1, j + 1]
            p2, w2 = np.uint64(line + at[1, j + 2] * channels), weight_y * weight[1, j + 2]
            p3, w3 = np.uint64(line + at[1, j + 3] * channels), weight_y * weight[1, j + 3]
            for c in range(run):
                output[first + c] += (
                    w0 * pixels[p0 + c] + w1 * pixels[p1 + c] + w2 * pixels[p2 + c] + w3 * pixels[p3 + c]
                )
            j += 4
        while j < columns:
            p0, w0 = np.uint64(line + at[1, j] * channels), weight_y * weight[1, j]
            for c in range(run):
                output[first + c] += w0 * pixels[p0 + c]
            j += 1


@njit(**_FAST)
def pool(pixels, boxes, offset, parts_y, parts_x, segments, sizes, factors, sensitive, first, last, output):
    """Write the outputs of the boxes `first` to `last`."""
    batch, map_height, map_width, channels, group, out_height, out_width, _ = sizes
    scratch = _scratch(pixels.dtype, sizes)
    _, at, weight, _ = scratch
    output[first * out_height * out_width * channels : last * out_height * out_width * channels] = 0
    for number in range(first, last):
        roi = _roi(boxes[number], sensitive, batch, factors)
        if roi[0] < 0:
            continue
        for row in range(out_height):
            for column in range(out_width):
                cell = row * group // out_height * group + column * group // out_width
                plane = (roi[0] * group * group + cell) * map_height * map_width * channels
                bin_at = ((number * out_height + row) * out_width + column) * channels
                class_of, rows, columns = -1, 0, 0
                for segment in range(segments.shape[0]):
                    channel, length = segments[segment, 0], segments[segment, 1]
                    if class_of != segments[segment, 2]:
                        class_of = segments[segment, 2]
                        part = parts_y[row], parts_x[column]
                        rows, columns = _bin(
                            sensitive, roi, offset, number, class_of, part, row, column, sizes, factors, scratch
                        )
                    to = bin_at + channel
                    _read(pixels, plane + channel, sizes, at, weight, rows, columns, output, to, length)


@njit(**_FAST, **_INLINE)
def _return(pixels, grad_pixels, origin, sizes, scratch, rows, columns, grad, length, wants_shift):
    """Add a bin's gradient to its pixels, unless `grad_pixels` is empty, and to its location: x and y, pixels."""
    line_width, channels = sizes[2] * sizes[3], sizes[3]
    _, at, weight, slope = scratch
    zero = type(pixels[0])(0)
    shift_x = shift_y = zero
    if length <= _SHORT:
        for c in range(length):
            of_channel = grad[c]
            for i in range(rows):
                line = origin + c + at[0, i] * line_width
                by_x = by_y = zero
                if wants_shift:
                    for j in range(columns):
                        value = pixels[np.uint64(line + at[1, j] * channels)]
                        by_x += slope[1, j] * value
                        by_y += weight[1, j] * value
                    shift_x += of_channel * weight[0, i] * by_x
                    shift_y += of_channel * slope[0, i] * by_y
                if grad_pixels.size:
                    factor = of_channel * weight[0, i]
                    for j in range(columns):
                        grad_pixels[np.uint64(line + at[1, j] * channels)] += factor * weight[1, j]
        return shift_x, shift_y
    run = np.uint64(length)
    for i in range(rows):
        for j in range(columns):
            pixel = np.uint64(origin + at[0, i] * line_width + at[1, j] * channels)
            if wants_shift:
                dot = zero
                for c in range(run):
                    dot += grad[c] * pixels[pixel + c]
                shift_x += weight[0, i] * slope[1, j] * dot
                shift_y += slope[0, i] * weight[1, j] * dot
            if grad_pixels.size:
                factor = weight[0, i] * weight[1, j]
                for c in range(run):
                    grad_pixels[pixel + c] += factor * grad[c]
    return shift_x, shift_y


@njit(**_FAST)
def backward(
    pixels,
    boxes,
    offset,
    parts_y,
    parts_x,
    segments,
    sizes,
    factors,
    sensitive,
    image,
    cell,
    grad,
    strides,
    partial,
    grad_pixels,
):
    """Take the gradient of one group cell of one image back; what has size 0 of `partial`, `grad_pixels` is skipped.

    Each bin's gradient is brought together first: a copy of them all, channels last, would be as large as the output.
    Other images, cells or segments touch other memory, and every sum runs in the order of the boxes: repeatable
    without atomics.
    """
    batch, map_height, map_width, channels, group, out_height, out_width, _ = sizes
    scratch = _scratch(pixels.dtype, sizes)
    of_bin = np.empty(segments[:, 1].max(), pixels.dtype)
    plane = (image * group * group + cell) * map_height * map_width * channels
    # Bins whose row times group // out_height is the cell's, and columns likewise.
    first_row, last_row = -(-(cell // group) * out_height // group), -(-(cell // group + 1) * out_height // group)
    first_column, last_column = -(-(cell % group) * out_width // group), -(-(cell % group + 1) * out_width // group)
    for number in range(boxes.shape[0]):
        roi = _roi(boxes[number], sensitive, batch, factors)
        if roi[0] != image:
            continue
        for row in range(first_row, last_row):
            for column in range(first_column, last_column):
                bin_at = number * strides[0] + row * strides[2] + column * strides[3]
                class_of, rows, columns = -1, 0, 0
                for segment in range(segments.shape[0]):
                    channel, length = segments[segment, 0], segments[segment, 1]
                    if class_of != segments[segment, 2]:
                        class_of = segments[segment, 2]
                        part = parts_y[row], parts_x[column]
                        rows, columns = _bin(
                            sensitive, roi, offset, number, class_of, part, row, column, sizes, factors, scratch
                        )
                    if rows == 0 or columns == 0:
                        continue
                    for c in range(length):
                        of_bin[c] = grad[np.uint64(bin_at + (channel + c) * strides[1])]
                    shift_x, shift_y = _return(
                        *(pixels, grad_pixels, plane + channel, sizes, scratch, rows, columns, of_bin, length),
                        partial.size > 0,
                    )
                    if partial.size:
                        partial[segment, number, row, column, 0] = factors[1] * roi[3] * shift_x
                        partial[segment, number, row, column, 1] = factors[1] * roi[4] * shift_y


# ---- The loops as functions of one address (native.py). The table: the count of boxes at 2; from 3 on the shared
# arrays, the sizes, the rule and the factors; then, from 31 on, the loop's own. ----


@njit(**_EXACT, **_INLINE)
def _shared(table, real):
    """Everything from the pixels to the rule."""
    factors = vector(table, 29, real)
    return (
        vector(table, 3, real),
        carray(pointer(table[5]), (table[6], table[7]), real),
        carray(pointer(table[8]), (table[9], table[10], table[11], table[12]), real),
        vector(table, 13, np.int64),
        vector(table, 15, np.int64),
        carray(pointer(table[17]), (table[18], table[19]), np.int64),
        (table[20], table[21], table[22], table[23], table[24], table[25], table[26], table[27]),
        (factors[0], factors[1]),
        table[28] != 0,
    )


@cache
def pooling(real: type) -> int:
    """The address of `pool`; in addition: the output."""

    def body(address):
        table = carray(address, (33,), np.int64)
        pixels, boxes, offset, parts_y, parts_x, segments, sizes, factors, sensitive = _shared(table, real)
        output = vector(table, 31, real)
        while True:
            part = next_part(table)
            if part >= table[1]:
                return
            first, last = table[2] * part // table[1], table[2] * (part + 1) // table[1]
            pool(pixels, boxes, offset, parts_y, parts_x, segments, sizes, factors, sensitive, first, last, output)

    return callback(body)


@cache
def returning(real: type) -> int:
    """The address of `backward`; in addition: each part's image, cell and segments, the gradients and their strides."""

    def body(address):
        table = carray(address, (48,), np.int64)
        pixels, boxes, offset, parts_y, parts_x, segments, sizes, factors, sensitive = _shared(table, real)
        parts = carray(pointer(table[31]), (table[32], table[33]), np.int64)
        grad, strides = vector(table, 34, real), (table[36], table[37], table[38], table[39])
        partial = carray(pointer(table[40]), (table[41], table[42], table[43], table[44], table[45]), real)
        grad_pixels = vector(table, 46, real)
        while True:
            part = next_part(table)
            if part >= table[1]:
                return
            first, last = parts[part, 2], parts[part, 3]
            sums = partial[first:last] if partial.size else partial
            some, image, cell = segments[first:last], parts[part, 0], parts[part, 1]
            arrays = grad, strides, sums, grad_pixels
            backward(pixels, boxes, offset, parts_y, parts_x, some, sizes, factors, sensitive, image, cell, *arrays)

    return callback(body)
