"""The loops of both deformable RoI poolings on a CPU, compiled by numba on first use and cached on disk.

What a bin reads (roi_bins.py) belongs to the bin of a class, not to the channel; channels are the contiguous,
vectorised axis.

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

``sensitive`` chooses the rule: position-sensitive pooling's, or the RoIAlign-style one's. Large arrays are flat and
indexed by unsigned numbers, for the reasons that deform_conv2d_kernels gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dcnlab.ops.cpu.roi_bins import FAST, INLINE, merge_bin, roi_of, scratch_of
from dcnlab.ops.jit import njit

# Runs of channels up to this length are summed one by one, over the pixels: a vector would be mostly empty.
_SHORT = 3


class Sizes(NamedTuple):
    """Sizes of a call; `channels` are those of a group cell, `samples` along an axis or 0."""

    batch: int
    height: int
    width: int
    channels: int
    group: int
    out_height: int
    out_width: int
    samples: int


class Factors(NamedTuple):
    """Factors of a call."""

    scale: float
    gamma: float


class Strides(NamedTuple):
    """Of the output's gradient."""

    box: int
    channel: int
    row: int
    column: int


class Arrays(NamedTuple):
    """What both loops read."""

    pixels: Any
    boxes: Any
    offset: Any
    parts_y: Any
    parts_x: Any
    segments: Any
    sizes: Sizes
    factors: Factors
    sensitive: bool


@njit(**FAST, **INLINE)
def _read(pixels, origin, sizes, at, weight, rows, columns, output, to, length):
    """Sum a bin's pixels by their weights, for `length` channels; four pixels at a time."""
    line_width, channels = sizes.width * sizes.channels, sizes.channels
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


@njit(**FAST)
def pool(arrays, first, last, output):
    """Write the outputs of the boxes `first` to `last`."""
    pixels, boxes, offset, segments = arrays.pixels, arrays.boxes, arrays.offset, arrays.segments
    parts_y, parts_x, sensitive = arrays.parts_y, arrays.parts_x, arrays.sensitive
    sizes, factors = arrays.sizes, arrays.factors
    channels, group, out_height, out_width = sizes.channels, sizes.group, sizes.out_height, sizes.out_width
    scratch = scratch_of(pixels.dtype, sizes)
    at, weight = scratch.at, scratch.weight
    output[first * out_height * out_width * channels : last * out_height * out_width * channels] = 0
    for number in range(first, last):
        roi = roi_of(boxes[number], sensitive, sizes.batch, factors)
        if roi.image < 0:
            continue
        for row in range(out_height):
            for column in range(out_width):
                cell = row * group // out_height * group + column * group // out_width
                plane = (roi.image * group * group + cell) * sizes.height * sizes.width * channels
                bin_at = ((number * out_height + row) * out_width + column) * channels
                class_of, rows, columns = -1, 0, 0
                for segment in range(segments.shape[0]):
                    channel, length = segments[segment, 0], segments[segment, 1]
                    if class_of != segments[segment, 2]:
                        class_of = segments[segment, 2]
                        part_y, part_x = parts_y[row], parts_x[column]
                        rows, columns = merge_bin(
                            *(sensitive, roi, offset, number, class_of, part_y, part_x, row, column),
                            *(sizes, factors, scratch),
                        )
                    to = bin_at + channel
                    _read(pixels, plane + channel, sizes, at, weight, rows, columns, output, to, length)


@njit(**FAST, **INLINE)
def _return(pixels, grad_pixels, origin, sizes, scratch, rows, columns, grad, length, wants_offset):
    """Add a bin's gradient to its pixels, unless `grad_pixels` is empty, and to its location: x and y, pixels."""
    line_width, channels = sizes.width * sizes.channels, sizes.channels
    _, at, weight, slope = scratch
    zero = type(pixels[0])(0)
    grad_x = grad_y = zero
    if length <= _SHORT:
        for c in range(length):
            of_channel = grad[c]
            for i in range(rows):
                line = origin + c + at[0, i] * line_width
                by_x = by_y = zero
                if wants_offset:
                    for j in range(columns):
                        value = pixels[np.uint64(line + at[1, j] * channels)]
                        by_x += slope[1, j] * value
                        by_y += weight[1, j] * value
                    grad_x += of_channel * weight[0, i] * by_x
                    grad_y += of_channel * slope[0, i] * by_y
                if grad_pixels.size:
                    factor = of_channel * weight[0, i]
                    for j in range(columns):
                        grad_pixels[np.uint64(line + at[1, j] * channels)] += factor * weight[1, j]
        return grad_x, grad_y
    run = np.uint64(length)
    for i in range(rows):
        for j in range(columns):
            pixel = np.uint64(origin + at[0, i] * line_width + at[1, j] * channels)
            if wants_offset:
                dot = zero
                for c in range(run):
                    dot += grad[c] * pixels[pixel + c]
                grad_x += weight[0, i] * slope[1, j] * dot
                grad_y += slope[0, i] * weight[1, j] * dot
            if grad_pixels.size:
                factor = weight[0, i] * weight[1, j]
                for c in range(run):
                    grad_pixels[pixel + c] += factor * grad[c]
    return grad_x, grad_y


@njit(**FAST)
def backward(arrays, segments, image, cell, grad, strides, partial, grad_pixels):
    """Backpropagate to one group cell of one image; `partial` or `grad_pixels` of size 0 is skipped.

    Each bin's gradient is brought together first: a copy of them all, channels last, would be as large as the output.
    Other images, cells or segments touch other memory, and every sum runs in the order of the boxes: repeatable
    without atomics.
    """
    pixels, boxes, offset = arrays.pixels, arrays.boxes, arrays.offset
    parts_y, parts_x, sensitive = arrays.parts_y, arrays.parts_x, arrays.sensitive
    sizes, factors, gamma = arrays.sizes, arrays.factors, arrays.factors.gamma
    channels, group, out_height, out_width = sizes.channels, sizes.group, sizes.out_height, sizes.out_width
    scratch = scratch_of(pixels.dtype, sizes)
    of_bin = np.empty(segments[:, 1].max(), pixels.dtype)
    plane = (image * group * group + cell) * sizes.height * sizes.width * channels
    # Bins whose row times group // out_height is the cell's, and columns likewise.
    first_row, last_row = -(-(cell // group) * out_height // group), -(-(cell // group + 1) * out_height // group)
    first_column, last_column = -(-(cell % group) * out_width // group), -(-(cell % group + 1) * out_width // group)
    for number in range(boxes.shape[0]):
        roi = roi_of(boxes[number], sensitive, sizes.batch, factors)
        if roi.image != image:
            continue
        for row in range(first_row, last_row):
            for column in range(first_column, last_column):
                bin_at = number * strides.box + row * strides.row + column * strides.column
                class_of, rows, columns = -1, 0, 0
                for segment in range(segments.shape[0]):
                    channel, length = segments[segment, 0], segments[segment, 1]
                    if class_of != segments[segment, 2]:
                        class_of = segments[segment, 2]
                        part_y, part_x = parts_y[row], parts_x[column]
                        rows, columns = merge_bin(
                            *(sensitive, roi, offset, number, class_of, part_y, part_x, row, column),
                            *(sizes, factors, scratch),
                        )
                    if rows == 0 or columns == 0:
                        continue
                    for c in range(length):
                        of_bin[c] = grad[np.uint64(bin_at + (channel + c) * strides.channel)]
                    origin, wants_offset = plane + channel, partial.size > 0
                    grad_x, grad_y = _return(
                        pixels, grad_pixels, origin, sizes, scratch, rows, columns, of_bin, length, wants_offset
                    )
                    if partial.size:
                        partial[segment, number, row, column, 0] = gamma * roi.width * grad_x
                        partial[segment, number, row, column, 1] = gamma * roi.height * grad_y
