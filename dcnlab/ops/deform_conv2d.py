"""Deformable convolution: the public function, and its entry in the register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import autocast, reference, registry
from dcnlab.ops.checks import check_deform_conv2d, check_tensors, pair
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.precision import convolution_precision


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
    pairs = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    check_tensors(input=input, offset=offset, weight=weight, bias=bias, mask=mask)
    arguments = _OPERATOR.cast(ConvArguments(input, offset, weight, bias, *pairs, mask))
    check_deform_conv2d(arguments)
    return _deform_conv2d(arguments)


def _compute(kernels: Any, arguments: ConvArguments) -> Tensor:
    """The output, in the precision that torch sets for convolutions, not in autocast's for matrix products."""
    device = registry.device_of(arguments.input)
    with autocast.off(device), convolution_precision(device, arguments.input.dtype):
        output: Tensor = kernels.forward(arguments)
        return output


def _compute_backward(
    kernels: Any, grad: Tensor, arguments: ConvArguments, needed: ConvGradients[bool]
) -> Sequence[Tensor | None]:
    """The gradients, likewise; the bias's is the same on every device."""
    bias = grad.sum((0, 2, 3)) if needed.bias else None
    if not (needed.input or needed.offset or needed.weight or needed.mask):
        return ConvGradients(None, None, None, bias, None)
    device = registry.device_of(arguments.input)
    with autocast.off(device), convolution_precision(device, arguments.input.dtype):
        grads: ConvGradients[Tensor | None] = kernels.backward(grad, arguments, needed)
    return grads._replace(bias=bias)


def _output_shape(arguments: ConvArguments) -> tuple[int, ...]:
    return (arguments.input.shape[0], arguments.weight.shape[0], *arguments.offset.shape[2:])


def _flops(arguments: Any, output: Sequence[int]) -> int:
    """The product with the weight, as of a plain convolution; bilinear sampling does not count."""
    return 2 * prod(output) * prod(arguments.weight[1:])


def _backward_flops(arguments: Any, grad: Sequence[int], needed: ConvGradients[bool]) -> int:
    """One product gives the columns' gradient, of which input's, offset's and mask's are made; another the weight's."""
    return _flops(arguments, grad) * ((needed.input or needed.offset or needed.mask) + needed.weight)


def _example(random: Callable[..., Tensor], channels: int) -> ConvArguments:
    input, offset = random(2, channels, 7, 6), random(2, 18, 7, 6, coordinates=True)
    return ConvArguments(input, offset, random(channels, channels, 3, 3) / 8, None, (1, 1), (1, 1), (1, 1), None)


_OPERATOR = registry.Operator(
    name="deform_conv2d",
    schema="Tensor input, Tensor offset, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, "
    "Tensor? mask",
    arguments=ConvArguments,
    gradients=ConvGradients,
    features=("input", "weight", "bias"),
    output_shape=_output_shape,
    reference=reference.deform_conv2d,
    flops=_flops,
    backward_flops=_backward_flops,
    example=_example,
    kernels={"cpu": "dcnlab.ops.cpu.deform_conv2d", "cuda": "dcnlab.ops.cuda.deform_conv2d"},
    compute=_compute,
    compute_backward=_compute_backward,
)
_deform_conv2d = registry.register(_OPERATOR)
