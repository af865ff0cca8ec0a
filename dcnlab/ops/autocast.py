"""Automatic mixed precision for operators that torch does not know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_DEVICES = ("cpu", "cuda")
"""Where the operators compute. `torch.amp.is_autocast_available` would say more, but torch.compile cannot trace it."""


def cast(device_type: str, tensor: Tensor) -> Tensor:
    """Cast to autocast's dtype where it is on; float64 stays, as in torch's own convolutions."""
    if tensor.dtype == torch.float64 or not is_on(device_type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))


def off(device_type: str) -> AbstractContextManager[object]:
    """Disable autocast for the products inside an operator, whose arguments are cast already."""
    return torch.autocast(device_type, enabled=False) if is_on(device_type) else nullcontext()


def is_on(device_type: str) -> bool:
    """Whether autocast is on for a type of device."""
    return device_type in _DEVICES and torch.is_autocast_enabled(device_type)
