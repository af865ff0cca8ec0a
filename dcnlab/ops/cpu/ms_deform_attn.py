"""Multi-scale deformable attention on a CPU, compiled by numba: no sample is held in memory.

A head's channels of a pixel are contiguous: they are the vectorised axis. The forward pass goes over the outputs of one
image and head after another, so that the head's part of the levels stays in the cache. The backward pass gives each
image and head to one thread: what other threads write lies elsewhere, and every sum runs in the order of the queries.

===========  ==========================  ==============================================================
array        shape                       meaning
===========  ==========================  ==============================================================
value        (N * S * M * D,)            as in ms_deform_attn; so its gradient
levels       (L, 3)                      height, width and first pixel; height 0: the level reads nothing
locations    (N * Q * M * L * P * 2,)    x before y, fractions or pixels; so their gradient
weights      (N * Q * M * L * P,)        so their gradient
rows         (N * Q * M * D,)            the output, or its gradient
===========  ==========================  ==============================================================

Large arrays are flat and indexed by unsigned numbers, for the reasons that deform_conv2d_kernels gives.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"
from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray
from torch import Tensor

from dcnlab.ops.cpu.bilinear import ALL, INLINE, OPTIONS, add, corners, starts, times
from dcnlab.ops.cpu.loop_table import NUMBER, Table
from dcnlab.ops.cpu.numba_callbacks import array1, array2, next_part
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.jit import callback, njit
from dcnlab.ops.ms_deform_attn import AttentionArguments, AttentionGradients

MIN_ROWS = 32
"""Outputs of a head that a thread takes at least in the forward pass."""


class Sizes(NamedTuple):
    """Sizes of a call; `normalized` is 1 or 0."""

    length: int
    queries: int
    heads: int
    channels: int
    points: int
    normalized: int


class Arrays(NamedTuple):
    """What both loops read."""

    value: Any
    levels: Any
    locations: Any
    weights: Any
    sizes: Sizes


class Gradients(NamedTuple):
    """What the backward loop writes; what has size 0 is skipped."""

    value: Any
    locations: Any
    weights: Any


@njit(**INLINE)
def _place(arrays, level, sample, zero):
    """The corners of a sample as `bilinear.corners` gives them, of a level that reads something."""
    height, width = arrays.levels[level, 0], arrays.levels[level, 1]
    x, y = arrays.locations[np.uint64(2 * sample)], arrays.locations[np.uint64(2 * sample + 1)]
    if arrays.sizes.normalized:
        half = zero + type(zero)(0.5)
        x, y = x * type(zero)(width) - half, y * type(zero)(height) - half
    return corners(y, x, height, width, zero)


@njit(**INLINE)
def _addresses(numbers, first, head, sizes):
    """Where a head's channels of four pixels begin, which are numbered from pixel `first` of the batch on."""
    p00, p01, p10, p11 = numbers
    stride = sizes.heads * sizes.channels
    return starts((first + p00, first + p01, first + p10, first + p11), stride, head * sizes.channels)


@njit(**INLINE)
def _add_blended(rows, to, scale, value, at, weights, length):
    """Add a sample with four pixels on its level, times its attention weight."""
    (q00, q01, q10, q11), (w00, w01, w10, w11) = at, weights
    for c in range(length):
        rows[to + c] += scale * (
            w00 * value[q00 + c] + w01 * value[q01 + c] + w10 * value[q10 + c] + w11 * value[q11 + c]
        )


@njit(**OPTIONS)
def _add_some(rows, to, scale, value, bits, at, weights, length):
    """The same with some pixels off the level, or an infinite factor, which multiplies the sum and not its parts."""
    for c in range(length):
        total = type(value[0])(0)
        for k in range(4):
            if bits >> k & 1 and weights[k] != 0:
                total += weights[k] * value[at[k] + c]
        rows[to + c] += scale * total


@njit(**OPTIONS)
def _attend(arrays, first, last, rows):
    """Write the outputs `first` to `last`, counted by image, head and query."""
    value, levels, sizes = arrays.value, arrays.levels, arrays.sizes
    queries, heads, points, zero = sizes.queries, sizes.heads, sizes.points, type(value[0])(0)
    length, samples = np.uint64(sizes.channels), levels.shape[0] * points
    for number in range(first, last):
        group = number // queries
        image, head = group // heads, group % heads
        row = (image * queries + number % queries) * heads + head
        to = np.uint64(row * sizes.channels)
        for c in range(length):
            rows[to + c] = 0
        for level in range(levels.shape[0]):
            if levels[level, 0] == 0:
                continue
            origin = image * sizes.length + levels[level, 2]
            for point in range(points):
                sample = row * samples + level * points + point
                bits, numbers, weights, _, _ = _place(arrays, level, sample, zero)
                scale = arrays.weights[np.uint64(sample)]
                if bits == 0:
                    continue
                at = _addresses(numbers, origin, head, sizes)
                if bits == ALL and np.isfinite(scale):
                    _add_blended(rows, to, scale, value, at, weights, length)
                else:
                    _add_some(rows, to, scale, value, bits, at, weights, length)


@njit(**INLINE)
def _dots(grads, of, value, at, length):
    """Dot products of a row's gradient with the sample's four pixels."""
    q00, q01, q10, q11 = at
    d00 = d01 = d10 = d11 = type(value[0])(0)
    for c in range(length):
        grad = grads[of + c]
        d00 += grad * value[q00 + c]
        d01 += grad * value[q01 + c]
        d10 += grad * value[q10 + c]
        d11 += grad * value[q11 + c]
    return d00, d01, d10, d11


@njit(**OPTIONS)
def _some_dots(grads, of, value, bits, at, length):
    """The same with some pixels off the level, which give 0."""
    zero = type(value[0])(0)
    d00 = d01 = d10 = d11 = zero
    for c in range(length):
        grad = grads[of + c]
        d00 += grad * value[at[0] + c] if bits & 1 else zero
        d01 += grad * value[at[1] + c] if bits & 2 else zero
        d10 += grad * value[at[2] + c] if bits & 4 else zero
        d11 += grad * value[at[3] + c] if bits & 8 else zero
    return d00, d01, d10, d11


@njit(**INLINE)
def _write_place(gradients, sample, dots, weights, fractions, scale, per_fraction):
    """Write the gradients of a sample's location and attention weight."""
    (d00, d01, d10, d11), (w00, w01, w10, w11), (y, x) = dots, weights, fractions
    if gradients.locations.size:
        left, right, top, bottom = d10 - d00, d11 - d01, d01 - d00, d11 - d10
        per_x, per_y = per_fraction
        gradients.locations[np.uint64(2 * sample)] = per_x * scale * (top + y * (bottom - top))
        gradients.locations[np.uint64(2 * sample + 1)] = per_y * scale * (left + x * (right - left))
    if gradients.weights.size:
        gradients.weights[np.uint64(sample)] = w00 * d00 + w01 * d01 + w10 * d10 + w11 * d11


@njit(**OPTIONS)
def _take_back(arrays, group, grads, gradients):
    """Take the gradient of one head of one image back; the gradients are zero at first."""
    value, levels, sizes = arrays.value, arrays.levels, arrays.sizes
    queries, heads, points, zero = sizes.queries, sizes.heads, sizes.points, type(value[0])(0)
    length, samples = np.uint64(sizes.channels), levels.shape[0] * points
    wants_places = gradients.locations.size or gradients.weights.size
    image, head = group // heads, group % heads
    for query in range(queries):
        row = (image * queries + query) * heads + head
        of = np.uint64(row * sizes.channels)
        for level in range(levels.shape[0]):
            if levels[level, 0] == 0:
                continue
            origin, one = image * sizes.length + levels[level, 2], zero + type(zero)(1)
            per_fraction = one, one
            if sizes.normalized:
                per_fraction = type(zero)(levels[level, 1]), type(zero)(levels[level, 0])
            for point in range(points):
                sample = row * samples + level * points + point
                bits, numbers, weights, y, x = _place(arrays, level, sample, zero)
                scale = arrays.weights[np.uint64(sample)]
                if bits == 0:
                    continue
                at = _addresses(numbers, origin, head, sizes)
                if wants_places:
                    if bits == ALL:
                        dots = _dots(grads, of, value, at, length)
                    else:
                        dots = _some_dots(grads, of, value, bits, at, length)
                    _write_place(gradients, sample, dots, weights, (y, x), scale, per_fraction)
                if gradients.value.size:
                    scaled = times(weights, scale, zero)
                    for k in range(4):
                        if bits >> k & 1:
                            add(gradients.value, at[k], scaled[k], grads, of, length)


SHARED = Table(value=1, levels=2, locations=1, weights=1, sizes=Table.of_numbers(Sizes._fields))
FORWARD = Table(count=NUMBER, shared=SHARED, rows=1)
"""`count` outputs; a part is some of them."""
BACKWARD = Table(shared=SHARED, grads=1, value=1, locations=1, weights=1)
"""A part is one head of one image."""

_FORWARD, _BACKWARD = FORWARD.of_loop(), BACKWARD.of_loop()


@njit(**INLINE)
def _arrays(shared, real):
    """What both loops read."""
    s = shared.sizes
    return Arrays(
        array1(shared.value, real),
        array2(shared.levels, np.int64),
        array1(shared.locations, real),
        array1(shared.weights, real),
        Sizes(s.length, s.queries, s.heads, s.channels, s.points, s.normalized),
    )


@cache
def computing(real: type) -> int:
    """The address of `_attend`, which takes FORWARD."""

    def body(address):
        table = carray(address, (1,), _FORWARD)[0]
        arrays, rows = _arrays(table.shared, real), array1(table.rows, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            _attend(arrays, table.count * part // table.parts, table.count * (part + 1) // table.parts, rows)

    return callback(body)


@cache
def returning(real: type) -> int:
    """The address of `_take_back`, which takes BACKWARD."""

    def body(address):
        table = carray(address, (1,), _BACKWARD)[0]
        arrays, grads = _arrays(table.shared, real), array1(table.grads, real)
        gradients = Gradients(array1(table.value, real), array1(table.locations, real), array1(table.weights, real))
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            _take_back(arrays, part, grads, gradients)

    return callback(body)


class _Call:
    """Arguments of forward and backward in the form that the loops take."""

    def __init__(self, arguments: AttentionArguments) -> None:
        value, locations = arguments.value, arguments.sampling_locations
        self.batch, length, self.heads, channels = value.shape
        self.queries, points = locations.shape[1], locations.shape[4]
        self.dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
        self.real = np.float64 if value.dtype == torch.float64 else np.float32
        self.arrays = {
            "value": value.to(self.dtype).contiguous().view(-1),
            "levels": _levels(arguments.spatial_shapes, arguments.level_start_index, length),
            "locations": locations.to(self.dtype).contiguous().view(-1),
            "weights": arguments.attention_weights.to(self.dtype).contiguous().view(-1),
            "sizes": Sizes(length, self.queries, self.heads, channels, points, int(arguments.normalized)),
        }
        self.shared = SHARED.numbers(**self.arrays)


def _levels(shapes: Tensor, starts: Tensor, length: int) -> Tensor:
    """Height, width and first pixel of each level; zeros where it does not lie within so many pixels."""
    levels = [
        (height, width, start)
        if height > 0 and width > 0 and start >= 0 and start + height * width <= length
        else (0, 0, 0)
        for (height, width), start in zip(shapes.tolist(), starts.tolist(), strict=True)
    ]
    return torch.tensor(levels, dtype=torch.int64).view(-1, 3)


def forward(arguments: AttentionArguments) -> Tensor:
    """Compute the output, (N, Q, M * D)."""
    call, value = _Call(arguments), arguments.value
    output = torch.empty(call.batch, call.queries, call.heads * value.shape[3], dtype=call.dtype)
    count = call.batch * call.heads * call.queries
    if output.numel():
        numbers = FORWARD.numbers(count=count, shared=call.shared, rows=output.view(-1))
        run(computing(call.real), numbers, parts_of(count, MIN_ROWS))
    return output.to(value.dtype)


def backward(
    grad: Tensor, arguments: AttentionArguments, needed: AttentionGradients[bool]
) -> AttentionGradients[Tensor | None]:
    """Compute the gradients that are needed."""
    call, tensors = _Call(arguments), (arguments.value, arguments.sampling_locations, arguments.attention_weights)
    grads = grad.to(call.dtype).contiguous().view(-1)
    sums = [
        torch.zeros(tensor.numel() if need else 0, dtype=call.dtype)
        for tensor, need in zip(tensors, needed, strict=True)
    ]
    if grads.numel():
        value, locations, weights = sums
        numbers = BACKWARD.numbers(shared=call.shared, grads=grads, value=value, locations=locations, weights=weights)
        run(returning(call.real), numbers, call.batch * call.heads)
    return AttentionGradients(
        *(
            total.view(tensor.shape).to(tensor.dtype) if need else None
            for total, tensor, need in zip(sums, tensors, needed, strict=True)
        )
    )
