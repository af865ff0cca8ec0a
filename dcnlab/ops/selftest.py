"""Self-test of `dcnlab doctor`: operators and their gradients compared with the reference on small random tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dcnlab import ops
from dcnlab.ops import reference
from dcnlab.ops.cuda import fused, fused_dispatch
from dcnlab.ops.geometry import ConvArguments
from dcnlab.ops.registry import OPERATORS

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest error by dtype, as a fraction of a result's largest entry (or of 1, if that is more)."""

TF32_TOLERANCE = 2e-3
"""The same of float32 that is multiplied as TF32, as the fused kernel does."""

_CHANNELS = {"vector": 16, "scalar": 5, "fused": 16}
"""Of a group: a multiple of what one load holds, or not."""


def ways(name: str, device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The kinds of kernels that may compute an operator: loads of 16 bytes, single ones, and fused with the product."""
    takes_fused = name == "deform_conv2d" and device != "cpu" and dtype in fused.DTYPES
    if takes_fused and torch.cuda.get_device_capability(device) >= divmod(fused.LEAST_ARCHITECTURE, 10):
        return ("vector", "scalar", "fused")
    return ("vector", "scalar")


def largest_error(name: str, device: str, dtype: torch.dtype, way: str) -> float:
    """Compare output and gradients with the reference's in float64.

    Args:
        name: one of OPERATORS.
        device: cpu or cuda.
        dtype: of the maps; coordinates are float32, or float64 with float64 maps.
        way: one of `ways`.

    Returns:
        The largest error, as a fraction of a result's largest entry (or of 1, if that is more).

    Raises:
        RuntimeError: the error is beyond the tolerance.
    """
    arguments = _case(name, dtype, _CHANNELS[way])
    exact = _results(name, reference, _moved(arguments, "cpu", torch.float64))
    with _forced(way):
        moved = _moved(arguments, device)
        if way == "fused" and not _is_fused(moved):
            raise RuntimeError("the fused kernel does not take a call that it should")
        results = _results(name, ops, moved)
    errors = [_error(result.cpu().double(), expected) for result, expected in zip(results, exact, strict=True)]
    worst = max(errors)
    tolerance = TF32_TOLERANCE if way == "fused" and dtype == torch.float32 else TOLERANCES[dtype]
    if worst > tolerance:
        raise RuntimeError(f"{way} kernels differ from the reference by {worst:.1e}, more than {tolerance:.0e}")
    return worst


def _moved(arguments: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """The record with its tensors on a device, the floating ones in a dtype if one is given; fresh leaves."""
    return arguments._make(
        t.detach().to(device, dtype if t.is_floating_point() else None) if isinstance(t, Tensor) else t
        for t in arguments
    )


def _error(result: Tensor, exact: Tensor) -> float:
    """The largest, as a fraction of the largest entry; infinite where anything is not finite."""
    error = float((result - exact).abs().max() / exact.abs().max().clamp_min(1))
    return error if math.isfinite(error) else math.inf


def _case(name: str, dtype: torch.dtype, channels: int) -> Any:
    """The record of an operator's arguments, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, coordinates: bool = False) -> Tensor:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.to(real if coordinates else dtype)

    return OPERATORS[name].cast(OPERATORS[name].example(random, channels))


def _results(name: str, module: Any, arguments: Any) -> list[Tensor]:
    """Output, and the gradients of those arguments that have one."""
    leaves = [arguments[position] for position in OPERATORS[name].differentiable if arguments[position] is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    output = getattr(module, name)(*arguments)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output))]


def _is_fused(arguments: ConvArguments) -> bool:
    """Whether the fused kernel serves a convolution."""
    pixels, filters = (t.permute(0, 2, 3, 1).contiguous() for t in (arguments.input, arguments.weight))
    return fused_dispatch.serves(pixels, filters.flatten(1), arguments.geometry)


@contextmanager
def _forced(way: str) -> Iterator[None]:
    """Let the fused kernel serve, or not, and float32 be multiplied in full but for that."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    variable, precision = os.environ.get(fused_dispatch.VARIABLE), convolutions.fp32_precision
    os.environ[fused_dispatch.VARIABLE] = "always" if way == "fused" else "never"
    convolutions.fp32_precision = "tf32" if way == "fused" else "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = precision
        if variable is None:
            del os.environ[fused_dispatch.VARIABLE]
        else:
            os.environ[fused_dispatch.VARIABLE] = variable
