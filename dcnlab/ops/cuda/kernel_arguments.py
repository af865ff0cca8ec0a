"""Arguments of a kernel's launch: structs by value, sizes of grids and blocks, and what CuPy passes on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Argument = torch.Tensor | np.generic | None
"""A tensor (its address), None (a null pointer), or a numpy scalar, which may be a record: a struct by value."""

DIVISOR = np.dtype([("value", np.int64), ("multiplier", np.uint32), ("shift", np.int32)], align=True)
"""`Divisor` of `common.cuh`, as a field of a kernel's sizes."""

_SCALARS = frozenset(np.dtype(code).type for code in "?bhilqBHILQfd")
_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)
_MAX_BLOCK_THREADS = 1024


def record(values: tuple[Any, ...], dtype: np.dtype) -> np.void:
    """A struct to pass by value: a scalar, which costs a launch a tenth of what an array without dimensions costs.

    Args:
        values: of the fields, in order.
        dtype: of the struct, made with `align=True`.
    """
    scalar: Any = np.array(values, dtype=dtype)[()]
    return scalar


def divisor(value: int) -> tuple[int, int, int]:
    """A `Divisor` of `common.cuh`: the multiplication and the shift that divide any n below 2^31.

    Args:
        value: what to divide by; 0, of empty tensors, by which nothing is divided, counts as 1. Beyond 2^31 - 1 indices
            are wide and divided plainly.
    """
    value = max(value, 1)
    if value >= 2**31:
        return value, 0, 0
    shift = (value - 1).bit_length()
    return value, ((1 << 32) * ((1 << shift) - value)) // value + 1, shift


@lru_cache(maxsize=4096)
def check_geometry(kernel: str, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    """Refuse what CUDA would, and an empty grid, which CuPy would round up to one block.

    Raises:
        ValueError: a size is out of range.
    """
    threads = 1
    for what, sizes, limits in (("grid", grid, _MAX_GRID), ("block", block, _MAX_BLOCK)):
        if not 1 <= len(sizes) <= 3:
            raise ValueError(f"{kernel}: {what} {sizes} must have one to three sizes")
        for size, limit in zip(sizes, limits, strict=False):
            if not 1 <= size <= limit:
                raise ValueError(f"{kernel}: {what} {sizes} has a size outside 1 to {limit}")
    for size in block:
        threads *= size
    if threads > _MAX_BLOCK_THREADS:
        raise ValueError(f"{kernel}: block {block} has {threads} threads, more than {_MAX_BLOCK_THREADS}")


def check_value(kernel: str, position: int, value: Any) -> None:
    """Accept numpy scalars and records, whose width is known.

    Raises:
        TypeError: a bare Python number, which CuPy would pass as 64 bits whatever the kernel declares; or a record
            whose fields do not lie as C++ puts them.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is np.void and value.dtype.isalignedstruct):
        return
    if isinstance(value, np.void):
        raise TypeError(
            f"{kernel}: argument {position} is a record without C's alignment: use np.dtype(..., align=True)"
        )
    if isinstance(value, np.ndarray) and value.ndim == 0:
        raise TypeError(f"{kernel}: argument {position} is an array without dimensions: pass its scalar, array[()]")
    if isinstance(value, (bool, int, float)):
        raise TypeError(
            f"{kernel}: argument {position} is a bare {type(value).__name__}; pass np.int32, np.int64 or np.float32, "
            f"as the kernel declares it"
        )
    raise TypeError(f"{kernel}: argument {position} is a {type(value).__name__}: not a tensor, numpy scalar or record")


def marshal(kernel: str, args: Sequence[Argument]) -> tuple[list[Any], int]:
    """Turn arguments into what CuPy passes on, and find the device.

    Returns:
        values: an int (64 bits) for each pointer, numpy's own scalars and records.
        device: the index of the tensors' common CUDA device.

    Raises:
        TypeError: an argument of another kind.
        ValueError: tensors on the CPU or on two devices, or none at all.
    """
    values: list[Any] = []
    device = -1
    for position, arg in enumerate(args):
        if type(arg) in _SCALARS:
            values.append(arg)
        elif isinstance(arg, torch.Tensor):
            index = arg.get_device()
            if index < 0:
                raise ValueError(f"{kernel}: argument {position} is a tensor on {arg.device}, not on a CUDA device")
            if device not in (-1, index):
                raise ValueError(f"{kernel}: argument {position} is on cuda:{index}, those before it on cuda:{device}")
            device = index
            values.append(arg.data_ptr())
        elif arg is None:
            values.append(0)  # CuPy's own None would be no argument at all, not a null pointer
        else:
            check_value(kernel, position, arg)
            values.append(arg)
    if device < 0:
        raise ValueError(f"{kernel}: no argument is a tensor, so its device is unknown")
    return values, device
