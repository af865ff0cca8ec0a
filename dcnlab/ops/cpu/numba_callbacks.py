"""Helpers for numba callbacks that run without the GIL: arguments by address, parts by a shared counter.

A thread that enters Python takes its global lock, and waits for whoever has it: on two cores that costs 40 to 50
microseconds a loop, as long as the loops of small maps take. So a loop is a function of one address. There lies a table
of 64-bit numbers: a counter, how many parts there are, then sizes, and arrays as `threads.numbers_of` lists them. Every
thread of a team takes part after part by counting up.
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
def _add_one(typing: Any, address: Any) -> Any:
    """What stands at an address; it is one more afterwards, whoever else counts at once."""

    def build(context, builder, signature, args):
        at = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", at, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), build


@njit(error_model="numpy", forceinline=True)
def next_part(table):
    """The next part of a loop that nobody has taken; as many as there are parts, or more: none is left."""
    return _add_one(table.ctypes.data)


@njit(error_model="numpy", forceinline=True)
def vector(table, at, kind):
    """The array of one axis whose numbers begin at `at`."""
    return carray(pointer(table[at]), (table[at + 1],), kind)
