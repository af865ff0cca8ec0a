"""Automatic mixed precision for operators that torch does not know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def cast(device_type: str, tensor: Tensor) -> Tensor:
    """Cast to autocast's dtype where it is on; float64 stays, as in torch's own convolutions."""
    if not torch.is_autocast_enabled(device_type) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))


def off(device_type: str) -> AbstractContextManager[object]:
    """Keep autocast away from the products inside an operator, whose arguments are cast already."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()
