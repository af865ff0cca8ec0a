"""Uninitialised memory from torch's allocator, for tensors that kernels write completely."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scratch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised contiguous tensor, also under `torch.use_deterministic_algorithms`.

    There torch.empty fills memory with NaN, a kernel a tensor, to show what reads memory that nobody has written.
    Kernels that write all of it gain nothing by that.
    """
    deterministic: Any = torch.utils.deterministic
    if not (torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory):
        return torch.empty(shape, dtype=dtype, device=device)
    bare = torch.empty(0, dtype=dtype, device=device)
    storage = torch.UntypedStorage(dtype.itemsize * _size(shape), device=device)
    return bare.set_(storage, 0, shape, _strides(shape))


def zeros(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector of zeros, by one fill."""
    return scratch((count,), dtype, device).zero_()


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, stride = [], 1
    for length in reversed(shape):
        strides.append(stride)
        stride *= max(length, 1)
    return tuple(reversed(strides))
