"""numba callbacks of depthwise_kernels' loops, and the tables of their arguments."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"
from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray

from dcnlab.ops.cpu.deform_conv2d_callbacks import SHARED, arrays_of
from dcnlab.ops.cpu.depthwise_kernels import Filters, Gradients, backward, forward
from dcnlab.ops.cpu.loop_table import NUMBER, Table
from dcnlab.ops.cpu.numba_callbacks import array1, array2, array4, next_part
from dcnlab.ops.jit import callback

FORWARD = Table(
    count=NUMBER, start=NUMBER, shared=SHARED, weight=1, depth=NUMBER, multiplier=NUMBER, bias=1, scratch=1, rows=1
)
"""`count` output pixels from `start` on; a part is some of them."""
BACKWARD = Table(
    start=NUMBER,
    shared=SHARED,
    pieces=2,
    weight=1,
    depth=NUMBER,
    multiplier=NUMBER,
    grads=1,
    grad_columns=1,
    columns=1,
    grad_pixels=1,
    grad_weight=1,
    grad_places=4,
)
"""The output pixels of a chunk that begins at `start`; `pieces` has a row for each part, as depthwise_kernels says."""

_FORWARD, _BACKWARD = FORWARD.of_loop(), BACKWARD.of_loop()


@cache
def computing(real: type) -> int:
    """The address of `forward`, which takes FORWARD."""

    def body(address):
        table = carray(address, (1,), _FORWARD)[0]
        arrays = arrays_of(table.shared, real)
        filters = Filters(array1(table.weight, real), table.depth, table.multiplier)
        bias, scratch, rows = array1(table.bias, real), array1(table.scratch, real), array1(table.rows, real)
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            start, own = table.start, scratch.size // table.parts * part
            first, last = table.count * part // table.parts, table.count * (part + 1) // table.parts
            forward(arrays, filters, bias, start, start + first, start + last, scratch, own, rows)

    return callback(body)


@cache
def returning(real: type) -> int:
    """The address of `backward`, which takes BACKWARD."""

    def body(address):
        table = carray(address, (1,), _BACKWARD)[0]
        arrays = arrays_of(table.shared, real)
        filters = Filters(array1(table.weight, real), table.depth, table.multiplier)
        grads, grad_columns = array1(table.grads, real), array1(table.grad_columns, real)
        pieces, columns = array2(table.pieces, np.int64), array1(table.columns, real)
        gradients = Gradients(
            array1(table.grad_pixels, real), array1(table.grad_weight, real), array4(table.grad_places, real)
        )
        while True:
            part = next_part(address)
            if part >= table.parts:
                return
            own, piece = columns.size // table.parts * part, pieces[part]
            backward(arrays, filters, grads, table.start, piece, grad_columns, columns, own, gradients)

    return callback(body)
