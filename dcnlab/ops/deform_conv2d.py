"""Deformable convolution: the public function, its gradient, and its registration with torch.

`dcnlab::deform_conv2d` and `dcnlab::deform_conv2d_backward` are torch.library operators with a CPU and a CUDA
implementation each; the gradient is a torch.autograd.Function around them, three times cheaper a call than a registered
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import autocast, autograd, reference
from dcnlab.ops.checks import check_deform_conv2d, check_tensors, pair
from dcnlab.ops.geometry import ConvGeometry
from dcnlab.ops.layout import empty_map, memory_format
from dcnlab.ops.precision import convolution_precision

_GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation"
torch.library.define(
    "dcnlab::deform_conv2d",
    f"(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "dcnlab::deform_conv2d_backward",
    f"(Tensor grad, Tensor input, Tensor offset, Tensor? mask, Tensor weight, {_GEOMETRY}, bool[4] needed)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution, version 1, or version 2 where a mask is given.

    Each output pixel p0 is the sum over the filter's taps p_n of w(p_n) * x(p0 + p_n + offset_n) [* mask_n]; x is read
    bilinearly, and is zero outside the map (Dai et al. 2017, equations 2 and 3; Zhu et al. 2019, equation 1).
    Signature and results are torchvision's, but for one point: the gradient of an offset that reads at exactly -1 is 0,
    as in the authors' kernel. A sampling location off the map, NaN or infinite reads zero, whatever the mask is there.
    Equal calls give bitwise equal gradients. Whether float32 is multiplied with fewer bits (TF32, bfloat16) follows
    torch's switch for convolutions.

    Second derivatives, forward mode and torch.func go through the reference implementation, which holds all columns in
    memory. torch.compile, torch.export and torch.jit.trace take the operator as one node; torch.jit.script does not.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16; contiguous, channels-last or strided. Channels-last
            saves a copy.
        offset: (N, 2 * offset_groups * kh * kw, Ho, Wo), in pixels of the input; y before x for each tap. Any floating
            dtype: sampling locations are computed in float32, or in float64 for a float64 input.
        weight: (F, C / groups, kh, kw), of the input's dtype.
        bias: (F,), of the input's dtype.
        stride: int or (y, x), at least 1.
        padding: int or (y, x), zeros on both sides.
        dilation: int or (y, x), distance between taps, at least 1.
        mask: (N, offset_groups * kh * kw, Ho, Wo), a factor for each sampling point, used as it is, infinite too.

    Returns:
        (N, F, Ho, Wo), of the input's dtype and in its memory format, as torch.nn.Conv2d's. Under autocast input,
        weight and bias are cast as for a convolution; offset and mask are not.

    Raises:
        ArgumentError: a ValueError and RuntimeError that names the argument that does not fit.
        ImportError: a CUDA tensor, and CuPy is not installed.
    """
    tensors = (input, offset, weight, bias, mask)
    if has_torch_function(tensors):
        return handle_torch_function(
            deform_conv2d, tensors, input, offset, weight, bias, stride, padding, dilation, mask
        )
    strides, paddings, dilations = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    check_tensors(input=input, offset=offset, weight=weight, bias=bias, mask=mask)
    device = input.device.type
    input, weight = autocast.cast(device, input), autocast.cast(device, weight)
    bias = None if bias is None else autocast.cast(device, bias)
    check_deform_conv2d(input, offset, weight, bias, mask, strides, paddings, dilations)
    real = torch.float64 if input.dtype == torch.float64 else torch.float32
    offset = offset.to(real)
    mask = None if mask is None else mask.to(real)
    sizes = (strides, paddings, dilations)
    if autograd.needs_reference():
        return _reference(input, offset, mask, weight, bias, *sizes)
    if autograd.needs_function(input, offset, weight, bias, mask):
        output: Tensor = _DeformConv2d.apply(input, offset, mask, weight, bias, *sizes)
        return output
    return torch.ops.dcnlab.deform_conv2d(input, offset, mask, weight, bias, *sizes)


def _reference(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *sizes: Any
) -> Tensor:
    """The reference by the operator's order of arguments."""
    stride, padding, dilation = sizes
    with autocast.off(input.device.type):
        return reference.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


class _DeformConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(input, offset, mask, weight, bias)
        ctx.sizes = (stride, padding, dilation)
        return torch.ops.dcnlab.deform_conv2d(input, offset, mask, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[:5]
        if autograd.needs_differentiable_backward():
            wanted = [t for t, need in zip(tensors, needed, strict=True) if need]
            found = iter(autograd.differentiate(_reference, (*tensors, *ctx.sizes), wanted, grad))
            return (*(next(found) if need else None for need in needed), None, None, None)
        input, offset, mask, weight, _ = tensors
        grads: tuple[Tensor | None, ...] = (None,) * 4
        if any(needed[:4]):
            all_four = torch.ops.dcnlab.deform_conv2d_backward(
                grad, input, offset, mask, weight, *ctx.sizes, list(needed[:4])
            )
            grads = tuple(g if need else None for g, need in zip(all_four, needed[:4], strict=True))
        return (*grads, grad.sum((0, 2, 3)) if needed[4] else None, None, None, None)


autograd.register("deform_conv2d", _DeformConv2d.apply, _reference)
autograd.register("deform_conv2d_backward", None)


@torch.library.register_fake("dcnlab::deform_conv2d")
def _fake(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    return empty_map(input, (input.shape[0], weight.shape[0], *offset.shape[2:]), memory_format(input))


@torch.library.register_fake("dcnlab::deform_conv2d_backward")
def _fake_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    needed: tuple[bool, bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_map(input, input.shape, memory_format(input)) if needed[0] else input.new_empty(0),
        offset.new_empty(offset.shape) if needed[1] else input.new_empty(0),
        mask.new_empty(mask.shape) if needed[2] and mask is not None else input.new_empty(0),
        empty_map(weight, weight.shape, memory_format(weight)) if needed[3] else input.new_empty(0),
    )


@torch.library.impl("dcnlab::deform_conv2d", ("cpu", "cuda"))
def _forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    geometry = ConvGeometry.of(input, offset, weight, stride, padding, dilation)
    with _alone(input):
        return _path(input).forward(input, offset, mask, weight, bias, geometry)


@torch.library.impl("dcnlab::deform_conv2d_backward", ("cpu", "cuda"))
def _backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    needed: tuple[bool, bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    geometry = ConvGeometry.of(input, offset, weight, stride, padding, dilation)
    with _alone(input):
        return _path(input).backward(grad, input, offset, mask, weight, geometry, needed)


@contextmanager
def _alone(input: Tensor) -> Iterator[None]:
    """Compute as the operator says, whatever surrounds it says of matrix products."""
    device = input.device.type
    with autocast.off(device), convolution_precision(device, input.dtype):
        yield


def _path(input: Tensor) -> Any:
    """The module that computes on the tensor's device, imported on first use: numba and CuPy are slow to load."""
    if input.is_cuda:
        from dcnlab.ops.cuda import deform_conv2d as cuda

        return cuda
    from dcnlab.ops.cpu import deform_conv2d as cpu

    return cpu
