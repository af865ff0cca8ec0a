"""numba callbacks of deformable convolution's loops, and the tables of their arguments."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"
from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray

from dcnlab.ops.cpu.bilinear import INLINE
from dcnlab.ops.cpu.deform_conv2d_kernels import Arrays, Sizes, places_backward, sample, scatter
from dcnlab.ops.cpu.loop_table import NUMBER, Table
from dcnlab.ops.cpu.numba_callbacks import array1, array2, array3, array4, next_part
from dcnlab.ops.jit import callback, njit

SHARED = Table(pixels=1, offset=3, mask=3, taps=2, segments=2, sizes=Table.of_numbers(Sizes._fields))
SAMPLE = Table(count=NUMBER, start=NUMBER, shared=SHARED, columns=1)
"""`count` output pixels from `start` on, as in all three; their columns are written."""
PLACES_BACKWARD = Table(count=NUMBER, start=NUMBER, shared=SHARED, grad_columns=1, columns=1, grad_places=4)
SCATTER = Table(start=NUMBER, shared=SHARED, bands=2, grad_columns=1, grad_pixels=1)
"""`bands` has a row for each part: first and last output pixel, and the input pixels from `low` to `high`."""

_SAMPLE, _PLACES_BACKWARD, _SCATTER = SAMPLE.of_loop(), PLACES_BACKWARD.of_loop(), SCATTER.of_loop()


@njit(**INLINE)
def arrays_of(shared, real):
    """What all loops read."""
    s = shared.sizes
    sizes = Sizes(s.height, s.width, s.channels, s.out_height, s.out_width, s.stride_y, s.stride_x, s.group_channels)
    return Arrays(
        array1(shared.pixels, real),
        array3(shared.offset, real),
        array3(shared.mask, real),
        array2(shared.taps, np.int64),
        array2(shared.segments, np.int64),
        sizes,
    )


@cache
def sampling(real: type) -> int:
    """The address of `sample`, which takes SAMPLE."""

    def body(address):
        table = carray(address, (1,), _SAMPLE)[0]
        arrays, columns = arrays_of(table.shared, real), array1(table.columns, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            start = table.start
            first, last = table.count * part // table.parts, table.count * (part + 1) // table.parts
            sample(arrays, start, start + first, start + last, columns)

    return callback(body)


@cache
def gradients_of_places(real: type) -> int:
    """The address of `places_backward`, which takes PLACES_BACKWARD."""

    def body(address):
        table = carray(address, (1,), _PLACES_BACKWARD)[0]
        arrays, grad_places = arrays_of(table.shared, real), array4(table.grad_places, real)
        grad_columns, columns = array1(table.grad_columns, real), array1(table.columns, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            start = table.start
            first, last = table.count * part // table.parts, table.count * (part + 1) // table.parts
            places_backward(arrays, start, start + first, start + last, grad_columns, columns, grad_places)

    return callback(body)


@cache
def scattering(real: type) -> int:
    """The address of `scatter`, which takes SCATTER."""

    def body(address):
        table = carray(address, (1,), _SCATTER)[0]
        arrays, bands = arrays_of(table.shared, real), array2(table.bands, np.int64)
        grad_columns, grad_pixels = array1(table.grad_columns, real), array1(table.grad_pixels, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            first, last, low, high = bands[part, 0], bands[part, 1], bands[part, 2], bands[part, 3]
            scatter(arrays, table.start, first, last, low, high, grad_columns, grad_pixels)

    return callback(body)
