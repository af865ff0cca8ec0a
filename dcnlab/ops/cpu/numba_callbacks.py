"""Helpers for numba callbacks that run without the GIL: arguments by address, parts by a shared counter.

A thread that enters Python takes its global lock, and waits for whoever has it: on two cores that costs 40 to 50
microseconds a loop, as long as the loops of small maps take. So a loop is a function of one address, where its record
lies (loop_table.py). Every thread of a team takes part after part by counting up.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg"
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from dcnlab.ops.jit import njit


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """The pointer of an address."""

    def build(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), build


@intrinsic
def next_part(typing: Any, address: Any) -> Any:
    """The number of the next part of a loop; at or above the number of parts, none is left.

    The counter is the first number at the loop's address. It is incremented atomically, so no two
    threads get the same part.
    """

    def build(context, builder, signature, args):
        at = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", at, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.voidptr), build


@njit(error_model="numpy", forceinline=True)
def array1(field, kind):
    """The one-dimensional array whose address and size a field of a record holds."""
    return carray(pointer(field.address), (field.n0,), kind)


@njit(error_model="numpy", forceinline=True)
def array2(field, kind):
    """The same of two axes."""
    return carray(pointer(field.address), (field.n0, field.n1), kind)


@njit(error_model="numpy", forceinline=True)
def array3(field, kind):
    """The same of three axes."""
    return carray(pointer(field.address), (field.n0, field.n1, field.n2), kind)


@njit(error_model="numpy", forceinline=True)
def array4(field, kind):
    """The same of four axes."""
    return carray(pointer(field.address), (field.n0, field.n1, field.n2, field.n3), kind)


@njit(error_model="numpy", forceinline=True)
def array5(field, kind):
    """The same of five axes."""
    return carray(pointer(field.address), (field.n0, field.n1, field.n2, field.n3, field.n4), kind)
