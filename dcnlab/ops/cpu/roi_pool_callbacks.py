"""numba callbacks of the RoI poolings' loops, and the tables of their arguments."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"
from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray

from dcnlab.ops.cpu.loop_table import NUMBER, Table
from dcnlab.ops.cpu.numba_callbacks import array1, array2, array4, array5, next_part
from dcnlab.ops.cpu.roi_bins import EXACT, INLINE
from dcnlab.ops.cpu.roi_pool_kernels import Arrays, Factors, Sizes, Strides, backward, pool
from dcnlab.ops.jit import callback, njit

_ARRAYS = {"pixels": 1, "boxes": 2, "offset": 4, "parts_y": 1, "parts_x": 1, "segments": 2}
SHARED = Table(**_ARRAYS, sizes=Table.of_numbers(Sizes._fields), sensitive=NUMBER, factors=1)
POOL = Table(boxes=NUMBER, shared=SHARED, output=1)
BACKWARD = Table(
    shared=SHARED,
    blocks=2,
    grad=1,
    strides=Table.of_numbers(Strides._fields),
    partial=5,
    grad_pixels=1,
)
"""`blocks` has a row for each part: image, group cell, and its segments from `first` to `last`."""

_POOL, _BACKWARD = POOL.of_loop(), BACKWARD.of_loop()


@njit(**EXACT, **INLINE)
def _arrays(shared, real):
    """What both loops read."""
    s, factors = shared.sizes, array1(shared.factors, real)
    return Arrays(
        array1(shared.pixels, real),
        array2(shared.boxes, real),
        array4(shared.offset, real),
        array1(shared.parts_y, np.int64),
        array1(shared.parts_x, np.int64),
        array2(shared.segments, np.int64),
        Sizes(s.batch, s.height, s.width, s.channels, s.group, s.out_height, s.out_width, s.samples),
        Factors(factors[0], factors[1]),
        shared.sensitive != 0,
    )


@cache
def pooling(real: type) -> int:
    """The address of `pool`, which takes POOL."""

    def body(address):
        table = carray(address, (1,), _POOL)[0]
        arrays, output = _arrays(table.shared, real), array1(table.output, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            first, last = table.boxes * part // table.parts, table.boxes * (part + 1) // table.parts
            pool(arrays, first, last, output)

    return callback(body)


@cache
def returning(real: type) -> int:
    """The address of `backward`, which takes BACKWARD."""

    def body(address):
        table = carray(address, (1,), _BACKWARD)[0]
        arrays, blocks = _arrays(table.shared, real), array2(table.blocks, np.int64)
        grad, grad_pixels = array1(table.grad, real), array1(table.grad_pixels, real)
        strides = Strides(table.strides.box, table.strides.channel, table.strides.row, table.strides.column)
        partial = array5(table.partial, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            image, cell, first, last = blocks[part, 0], blocks[part, 1], blocks[part, 2], blocks[part, 3]
            sums = partial[first:last] if partial.size else partial
            backward(arrays, arrays.segments[first:last], image, cell, grad, strides, sums, grad_pixels)

    return callback(body)
