"""One tester for every operator and path: results against the reference's, by a table of tolerances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest error of a result by dtype, as a share of the result's largest entry (or of 1, if that is more)."""

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "a sum's": lambda t: torch.tensor(0.75, dtype=t.dtype).expand_as(t),
    "a mean's over places": lambda t: t[:, :, :1, :1].expand_as(t),
}
"""Ways in which a gradient (N, C, H, W) comes; those of sums and means are other values, one in memory for many."""

Results = dict[str, Tensor | None]
"""Output and gradients by name; None where there is none."""


class HasDtype(Protocol):
    """A configuration: what it is computed in, and a text from which it can be run again."""

    dtype: torch.dtype


def assert_near(found: Results, expected: Results, case: HasDtype, tolerance: float | None = None) -> None:
    """Hold every result of a path against the reference's, and its dtype and shape against the arguments'."""
    tolerance = TOLERANCES[case.dtype] if tolerance is None else tolerance
    for name, value in expected.items():
        got = found[name]
        if value is None:
            assert got is None, f"{name} has a gradient though it was not given: {case}"
            continue
        assert got is not None, f"{name} is missing: {case}"
        assert got.shape == value.shape, f"{name}: {tuple(got.shape)}, expected {tuple(value.shape)}: {case}"
        error = (got.double().cpu() - value.double().cpu()).abs().max().item() if value.numel() else 0.0
        scale = max(1.0, value.abs().max().item()) if value.numel() else 1.0
        assert error <= tolerance * scale, f"{name} is off by {error:.2e} of {scale:.2e}: {case}"
