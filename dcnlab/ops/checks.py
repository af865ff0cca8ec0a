"""Checks of the operators' arguments; each error is one line that starts with the argument's name."""

from __future__ import annotations

import warnings

from torch import SymInt, Tensor
from torch.jit import TracerWarning

from dcnlab.ops.geometry import ConvArguments

# While torch.jit.trace runs, sizes are tensors, and each comparison would warn. Checks leave no trace in the graph.
warnings.filterwarnings("ignore", category=TracerWarning, module=r"dcnlab\.ops\.((pool_)?checks|ms_deform_attn)")

FLOATS = "float64, float32, float16 or bfloat16"


class ArgumentError(ValueError, RuntimeError):
    """An argument does not fit; also a RuntimeError, which is what torch's and torchvision's operators raise."""


def pair(name: str, value: int | tuple[int, int] | list[int], least: int) -> tuple[int, int]:
    """Make (y, x) of an int or a pair.

    Raises:
        ArgumentError: not one or two ints, or one below `least`.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(isinstance(v, (int, SymInt)) or hasattr(v, "__index__") for v in values):
        raise ArgumentError(f"{name}: expected an int or a pair of ints (y, x), got {value!r}")
    if min(values) < least:
        raise ArgumentError(f"{name}: must be at least {least}, got {value!r}")
    return values[0], values[1]


def check_tensors(**tensors: Tensor | None) -> None:
    """All floating, on one device; the first is the one that the others are compared with.

    Raises:
        ArgumentError: naming the first argument that differs.
    """
    (first, reference), *_ = tensors.items()
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            raise ArgumentError(f"{name}: expected dtype {FLOATS}, got {tensor.dtype}")
        if reference is not None and tensor.device != reference.device:
            raise ArgumentError(f"{name}: is on {tensor.device}, but {first} is on {reference.device}")


def check_deform_conv2d(arguments: ConvArguments) -> None:
    """Check the shapes and dtypes of a deformable convolution, and that its groups can be told from them.

    The tensors themselves have passed `check_tensors`.

    Raises:
        ArgumentError: naming the argument, its value and what would fit.
    """
    input, offset, weight, bias, stride, padding, dilation, mask = arguments
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise ArgumentError(f"{name}: expected 4 dimensions, got shape {tuple(tensor.shape)}")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise ArgumentError(f"{name}: is {other.dtype}, but input is {input.dtype}; they must be equal")
    batch, channels, height, width = input.shape
    out_channels, group_channels, kh, kw = weight.shape
    taps = kh * kw
    if min(out_channels, group_channels, taps) == 0 or channels % group_channels:
        raise ArgumentError(
            f"weight: expected (out_channels, in_channels / groups, kh, kw), got {tuple(weight.shape)} "
            f"for an input of {channels} channels"
        )
    groups = channels // group_channels
    if groups == 0 or out_channels % groups:
        raise ArgumentError(
            f"weight: {out_channels} output channels cannot be cut into the {groups} groups that its "
            f"{group_channels} of {channels} input channels imply"
        )
    out_height, out_width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), padding, dilation, (kh, kw), stride, strict=True)
    )
    if out_height < 1 or out_width < 1:
        raise ArgumentError(f"input: a map of {height}x{width} leaves an output of {out_height}x{out_width}")
    offset_groups = offset.shape[1] // (2 * taps)
    if offset_groups == 0 or offset.shape[1] % (2 * taps) or channels % offset_groups:
        raise ArgumentError(
            f"offset: the shape of the offset is {tuple(offset.shape)}; its channels must be "
            f"2 * offset_groups * {kh} * {kw}, with offset_groups dividing the input's {channels} channels"
        )
    _expect("offset", offset, (batch, offset.shape[1], out_height, out_width))
    if mask is not None:
        if mask.dim() != 4 or mask.shape[1] != offset_groups * taps:
            raise ArgumentError(
                f"mask: mask.shape[1] is not valid: got {tuple(mask.shape)}, expected "
                f"{(batch, offset_groups * taps, out_height, out_width)}"
            )
        _expect("mask", mask, (batch, offset_groups * taps, out_height, out_width))
    if bias is not None:
        _expect("bias", bias, (out_channels,))


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ArgumentError(f"{name}: the shape of the {name} is {tuple(tensor.shape)}, expected {shape}")
