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
from dcnlab.ops.geometry import ConvGeometry

OPERATORS = ("deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool")

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
    tensors, options = _case(name, dtype, _CHANNELS[way])
    exact = _results(name, reference, [tensor.double() for tensor in tensors], options)
    with _forced(way):
        moved = [tensor.detach().to(device) for tensor in tensors]
        if way == "fused" and not _is_fused(*moved, **options):
            raise RuntimeError("the fused kernel does not take a call that it should")
        found = _results(name, ops, moved, options)
    errors = [_error(one.cpu().double(), other) for one, other in zip(found, exact, strict=True)]
    worst = max(errors)
    tolerance = TF32_TOLERANCE if way == "fused" and dtype == torch.float32 else TOLERANCES[dtype]
    if worst > tolerance:
        raise RuntimeError(f"{way} kernels differ from the reference by {worst:.1e}, more than {tolerance:.0e}")
    return worst


def _error(found: Tensor, exact: Tensor) -> float:
    """The largest, as a fraction of the largest entry; infinite where anything is not finite."""
    error = float((found - exact).abs().max() / exact.abs().max().clamp_min(1))
    return error if math.isfinite(error) else math.inf


def _case(name: str, dtype: torch.dtype, channels: int) -> tuple[list[Tensor], dict[str, Any]]:
    """Arguments on the CPU: the map first, then those of the operator; and its options."""
    generator = torch.Generator().manual_seed(0)
    real = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(of)

    if name == "deform_conv2d":
        weight = random(channels, channels, 3, 3) / 8
        return [random(2, channels, 7, 6), random(2, 18, 7, 6, of=real), weight], {"padding": (1, 1)}
    boxes = torch.tensor([[0, 1.3, 0.4, 9.2, 11.7], [1, 3.6, 2.9, 14.1, 7.3]], dtype=real)
    offset = random(2, 2, 2, 2, of=real)
    if name == "deform_ps_roi_pool":
        options = {"output_size": 2, "spatial_scale": 0.37, "group_size": 2, "part_size": 2}
        return [random(2, 4 * channels, 7, 6), boxes, offset], options
    return [random(2, channels, 7, 6), boxes, offset], {"output_size": (2, 2), "spatial_scale": 0.37}


def _results(name: str, module: Any, tensors: list[Tensor], options: dict[str, Any]) -> list[Tensor]:
    """Output, and gradients of all but boxes."""
    is_boxes = [name != "deform_conv2d" and place == 1 for place in range(len(tensors))]
    leaves = [tensor.requires_grad_() for tensor, boxes in zip(tensors, is_boxes, strict=True) if not boxes]
    output = getattr(module, name)(*tensors, **options)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output))]


def _is_fused(input: Tensor, offset: Tensor, weight: Tensor, *, padding: tuple[int, int]) -> bool:
    """Whether the fused kernel serves a convolution."""
    geometry = ConvGeometry.of(input, offset, weight, (1, 1), padding, (1, 1))
    pixels, filters = (tensor.permute(0, 2, 3, 1).contiguous() for tensor in (input, weight))
    return fused_dispatch.serves(pixels, filters.flatten(1), geometry)


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
