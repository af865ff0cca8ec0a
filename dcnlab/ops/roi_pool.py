"""Registration of both RoI poolings with torch, their gradient, and the choice of a path.

Each pooling is two torch.library operators, forward and backward, with a CPU and a CUDA implementation, and a
torch.autograd.Function around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcnlab.ops import autograd
from dcnlab.ops.layout import empty_map, memory_format
from dcnlab.ops.pool_geometry import PoolGeometry

Pool = Callable[..., Tensor]
"""(input, boxes, offset, *sizes) -> output."""


def register(name: str, sizes: str, geometry_of: Callable[..., PoolGeometry], reference: Pool) -> Pool:
    """Register a RoI pooling with torch.

    Args:
        name: of the operator in the `dcnlab` library.
        sizes: the arguments after input, boxes and offset, as a schema.
        geometry_of: makes the sizes of a call from the operator's arguments.
        reference: computes the operator in torch's own operators.

    Returns:
        The function of checked arguments, with every derivative.
    """
    arguments = f"Tensor input, Tensor boxes, Tensor? offset, {sizes}"
    tag = torch.Tag.pt2_compliant_tag
    torch.library.define(f"dcnlab::{name}", f"({arguments}) -> Tensor", tags=tag)
    backward = f"{name}_backward"
    torch.library.define(
        f"dcnlab::{backward}", f"(Tensor grad, {arguments}, bool[2] needed) -> (Tensor, Tensor)", tags=tag
    )
    function = _function(name, reference)

    def apply(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
        output: Tensor = function.apply(input, boxes, offset, sizes)
        return output

    def call(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
        if autograd.needs_reference():
            return reference(input, boxes, offset, *sizes)
        if autograd.needs_function(input, offset):
            return apply(input, boxes, offset, *sizes)
        found: Tensor = getattr(torch.ops.dcnlab, name)(input, boxes, offset, *sizes)
        return found

    autograd.register(name, apply, reference)
    autograd.register(backward, None)
    _register_fakes(name, backward, geometry_of)
    _register_paths(name, backward, geometry_of)
    return call


def _function(name: str, reference: Pool) -> type[torch.autograd.Function]:
    """The Function around the two operators of a pooling."""

    class RoIPool(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor, boxes: Tensor, offset: Tensor | None, sizes: tuple[Any, ...]) -> Tensor:
            ctx.save_for_backward(input, boxes, offset)
            ctx.sizes = sizes
            output: Tensor = getattr(torch.ops.dcnlab, name)(input, boxes, offset, *sizes)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            input, boxes, offset = ctx.saved_tensors
            needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
            if autograd.needs_differentiable_backward():
                wanted = [t for t, need in zip((input, offset), needed, strict=True) if need]
                found = iter(autograd.differentiate(reference, (input, boxes, offset, *ctx.sizes), wanted, grad))
            else:
                operator = getattr(torch.ops.dcnlab, f"{name}_backward")
                both = operator(grad, input, boxes, offset, *ctx.sizes, needed)
                found = iter([g for g, need in zip(both, needed, strict=True) if need])
            grads = [next(found) if need else None for need in needed]
            return grads[0], None, grads[1], None

    return RoIPool


def _register_fakes(name: str, backward: str, geometry_of: Callable[..., PoolGeometry]) -> None:
    @torch.library.register_fake(f"dcnlab::{name}")
    def fake(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
        g = geometry_of(input, boxes, offset, *sizes)
        return empty_map(input, (g.rois, g.channels, g.out_height, g.out_width), memory_format(input))

    @torch.library.register_fake(f"dcnlab::{backward}")
    def fake_backward(
        grad: Tensor, input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes_needed: Any
    ) -> tuple[Tensor, Tensor]:
        *_, needed = sizes_needed
        return (
            empty_map(input, input.shape, memory_format(input)) if needed[0] else input.new_empty(0),
            offset.new_empty(offset.shape) if needed[1] and offset is not None else input.new_empty(0),
        )


def _register_paths(name: str, backward: str, geometry_of: Callable[..., PoolGeometry]) -> None:
    @torch.library.impl(f"dcnlab::{name}", ("cpu", "cuda"))
    def compute(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
        output: Tensor = _path(input).forward(input, boxes, offset, geometry_of(input, boxes, offset, *sizes))
        return output

    @torch.library.impl(f"dcnlab::{backward}", ("cpu", "cuda"))
    def compute_backward(
        grad: Tensor, input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes_needed: Any
    ) -> tuple[Tensor, Tensor]:
        *sizes, needed = sizes_needed
        geometry = geometry_of(input, boxes, offset, *sizes)
        grads: tuple[Tensor, Tensor] = _path(input).backward(grad, input, boxes, offset, geometry, needed)
        return grads


def _path(input: Tensor) -> Any:
    """The module that computes on the tensor's device, imported on first use: numba and CuPy are slow to load."""
    if input.is_cuda:
        from dcnlab.ops.cuda import roi_pool as cuda

        return cuda
    from dcnlab.ops.cpu import roi_pool as cpu

    return cpu
