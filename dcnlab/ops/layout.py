"""Memory formats: an operator's output has its input's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn import Parameter

_REAL = (Tensor, Parameter)
"""Tensors whose sizes are numbers; those of a graph that is traced may be symbols."""


def memory_format(input: Tensor) -> torch.memory_format:
    """The memory format of a map (N, C, H, W), as torch's convolutions see it.

    Returns:
        `torch.channels_last` where the strides say so, also those of a slice; else `torch.contiguous_format`. Strides
        that fit both, as those of one pixel or one channel, count as contiguous where torch's convolutions say so.
    """
    if type(input) in _REAL and min(input.shape[1:]) > 1:
        # Strides of a dense map say it at once; torch's own function, in Python, takes microseconds. It also reads the
        # stride of an axis of one pixel, which `is_contiguous` does not.
        if input.is_contiguous():
            return torch.contiguous_format
        if input.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    suggested: torch.memory_format = suggest_memory_format(input)
    return suggested


def empty_map(like: Tensor, shape: Sequence[int], memory_format: torch.memory_format) -> Tensor:
    """An uninitialised map of a shape (N, C, H, W), of the dtype and on the device of another tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)
