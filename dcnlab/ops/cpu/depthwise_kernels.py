"""The loops of deformable convolution with few channels a group on a CPU, without columns; compiled by numba.

Groups are the contiguous, vectorised axis. With d channels and m filters in each of G groups, the maps hold a run of G
channels for each place in the group: channel i of all groups, then channel i + 1 of all groups.

=============  ===================================  =========================================================
array          shape                                meaning
=============  ===================================  =========================================================
pixels         (N * H * W * d * G,)                 input map, channels last
offset, mask                                        as in deform_conv2d_kernels
taps           (K, 2)                               likewise
segments       (offset groups, 3)                   groups of each offset group: first group, length, offset group
weight         (m * d * K * G,)                     filters
bias           (m * G,)                             zeros without one
rows           (output pixels of a chunk * m * G,)  output, channels last
grads          (N * Ho * Wo * m * G,)               gradient of the output, channels last
parts          (P, 6)                               parts of the backward loop: first and last output pixel, first
                                                    group, length, number of the run, number of the band
grad_weight    (bands * m * d * K * G,)             gradient of the weight by bands of images
grad_places    (runs, pixels of a chunk, K, 3)      each run's summand of the gradients of y, x and mask
scratch        (parts * longest run,)               one row of columns, or of their gradient
=============  ===================================  =========================================================

Large arrays are flat and indexed by unsigned numbers, for the reasons that deform_conv2d_kernels gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dcnlab.ops.cpu.bilinear import (
    ALL,
    INLINE,
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


class Filters(NamedTuple):
    """The weight, and the channels and filters of a group."""

    weight: Any
    depth: int
    multiplier: int


class Gradients(NamedTuple):
    """What the backward loop writes; what has size 0 is skipped."""

    pixels: Any
    weight: Any
    places: Any


@njit(**INLINE)
def _add_product(total, to, factors, at, values, of, length):
    """Add the product of two rows to a total."""
    for c in range(length):
        total[to + c] += factors[at + c] * values[of + c]


@njit(**INLINE)
def _add_blended(rows, to, weight, of, pixels, at, weights, length):
    """Add a tap's products where all four pixels are on the map."""
    (q00, q01, q10, q11), (w00, w01, w10, w11) = at, weights
    for c in range(length):
        rows[to + c] += weight[of + c] * (
            w00 * pixels[q00 + c] + w01 * pixels[q01 + c] + w10 * pixels[q10 + c] + w11 * pixels[q11 + c]
        )


@njit(**OPTIONS)
def forward(arrays, filters, bias, start, first, last, scratch, own, rows):
    """Write the outputs of the output pixels `first` to `last`, counted over the batch; scratch begins at `own`."""
    pixels, offset, mask = arrays.pixels, arrays.offset, arrays.mask
    taps, segments, sizes = arrays.taps, arrays.segments, arrays.sizes
    weight, depth, multiplier = filters
    channels, out_width = sizes.channels, sizes.out_width
    groups, count = channels // depth, taps.shape[0]
    area, zero, own = sizes.out_height * out_width, type(pixels[0])(0), np.uint64(own)
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = (pixel - start) * multiplier * groups
        to, length = np.uint64(line), np.uint64(multiplier * groups)
        for c in range(length):
            rows[to + c] = bias[c]
        for tap in range(count):
            group = -1
            for segment in range(segments.shape[0]):
                if group != segments[segment, 2]:
                    group = segments[segment, 2]
                    bits, numbers, weights, _, _, scale = corners_of(
                        offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
                    )
                    weights, factor = parted(weights, scale, zero)
                run, length = segments[segment, 0], np.uint64(segments[segment, 1])
                for i in range(depth):
                    at = starts(numbers, channels, i * groups + run)
                    of = np.uint64((i * count + tap) * groups + run)
                    if multiplier == 1 and bits == ALL and factor == 1:
                        _add_blended(rows, np.uint64(line + run), weight, of, pixels, at, weights, length)
                        continue
                    blend(scratch, own, pixels, bits, at, weights, length)
                    if bits:
                        multiply(scratch, own, factor, length)
                    for j in range(multiplier):
                        to = np.uint64(line + j * groups + run)
                        of = np.uint64(((j * depth + i) * count + tap) * groups + run)
                        _add_product(rows, to, weight, of, scratch, own, length)


@njit(**INLINE)
def _gradient_of_columns(grad_columns, own, grads, line, filters, of, groups, count, length):
    """Write a tap's gradient of one channel's columns: the filters' gradients times their weights."""
    weight, depth, multiplier = filters
    at, first = np.uint64(line), np.uint64(of)
    for c in range(length):
        grad_columns[own + c] = grads[at + c] * weight[first + c]
    for j in range(1, multiplier):
        at, of_filter = np.uint64(line + j * groups), np.uint64(of + j * depth * count * groups)
        _add_product(grad_columns, own, grads, at, weight, of_filter, length)


@njit(**OPTIONS)
def backward(arrays, filters, grads, start, part, grad_columns, columns, own, gradients):
    """Backpropagate the gradient of a part's output pixels, for its run of groups; scratch begins at `own`.

    Other parts touch other memory, and every sum runs in the order of the output pixels: repeatable without atomics,
    for any number of threads.
    """
    pixels, offset, mask = arrays.pixels, arrays.offset, arrays.mask
    taps, segments, sizes = arrays.taps, arrays.segments, arrays.sizes
    _, depth, multiplier = filters
    channels, out_width = sizes.channels, sizes.out_width
    groups, count = channels // depth, taps.shape[0]
    area, zero, own = sizes.out_height * out_width, type(pixels[0])(0), np.uint64(own)
    first, last, run, number, band = part[0], part[1], part[2], part[4], part[5]
    length, group = np.uint64(part[3]), run // segments[0, 1]
    wants_input, wants_weight, wants_places = gradients.pixels.size, gradients.weight.size, gradients.places.size
    for pixel in range(first, last):
        image, position = pixel // area, pixel % area
        out_y, out_x = position // out_width, position % out_width
        line = pixel * multiplier * groups + run
        for tap in range(count):
            bits, numbers, weights, y, x, scale = corners_of(
                offset, mask, taps, sizes, image, position, out_y, out_x, tap, group, zero
            )
            blended, factor = parted(weights, scale, zero)
            scaled = times(weights, scale, zero)
            s00 = s01 = s10 = s11 = zero
            for i in range(depth):
                at, of = starts(numbers, channels, i * groups + run), (i * count + tap) * groups + run
                if wants_input or wants_places:
                    _gradient_of_columns(grad_columns, own, grads, line, filters, of, groups, count, length)
                if wants_places:
                    if bits == ALL:
                        d00, d01, d10, d11 = dots(grad_columns, columns, own, pixels, at, blended, length)
                    else:
                        d00, d01, d10, d11 = some_dots(grad_columns, columns, own, pixels, bits, at, blended, length)
                    s00, s01, s10, s11 = s00 + d00, s01 + d01, s10 + d10, s11 + d11
                elif wants_weight:
                    blend(columns, own, pixels, bits, at, blended, length)
                if wants_weight:
                    if bits:
                        multiply(columns, own, factor, length)
                    for j in range(multiplier):
                        to = np.uint64((band * multiplier + j) * depth * count * groups + of)
                        at_grad = np.uint64(line + j * groups)
                        _add_product(gradients.weight, to, grads, at_grad, columns, own, length)
                if wants_input:
                    for k in range(4):
                        if bits >> k & 1:
                            add(gradients.pixels, at[k], scaled[k], grad_columns, own, length)
            if wants_places:
                w00, w01, w10, w11 = weights
                grad_y = scale * ((s10 - s00) + x * ((s11 - s01) - (s10 - s00)))
                grad_x = scale * ((s01 - s00) + y * ((s11 - s10) - (s01 - s00)))
                grad_mask = w00 * s00 + w01 * s01 + w10 * s10 + w11 * s11
                # Off the map they are zero, whatever the mask's factor.
                gradients.places[number, pixel - start, tap, 0] = grad_y if bits else zero
                gradients.places[number, pixel - start, tap, 1] = grad_x if bits else zero
                gradients.places[number, pixel - start, tap, 2] = grad_mask if bits else zero
