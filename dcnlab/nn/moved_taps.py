"""Helpers of deformable and active convolutions: arguments, output size, the convolution itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dcnlab.nn.padding import pad_beforehand, pads, pads_as_tensorflow
from dcnlab.ops import deform_conv2d


def check_offset_groups(offset_groups: int, in_channels: int) -> None:
    """Check that the number of offset groups divides that of input channels.

    Raises:
        ValueError: they do not.
    """
    if offset_groups < 1 or in_channels % offset_groups:
        raise ValueError(f"offset_groups: {offset_groups} does not divide the {in_channels} input channels")


def arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """The arguments with which our layers make another such convolution, on the same device and of the same dtype."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
        "tensorflow_padding": pads_as_tensorflow(conv),
    }


def output_size(conv: nn.Conv2d, input: Tensor) -> tuple[int, int]:
    """Height and width of a convolution's output for an input (N, C, H, W)."""
    left, right, top, bottom = pads(conv, input)
    height, width = (
        (size + pad - d * (k - 1) - 1) // s + 1
        for size, pad, d, k, s in zip(
            input.shape[2:], (top + bottom, left + right), conv.dilation, conv.kernel_size, conv.stride, strict=True
        )
    )
    return height, width


def convolve(conv: nn.Conv2d, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute a convolution at moved taps.

    Args:
        conv: its weight, bias, stride, padding of any mode, and dilation.
        input: (N, C, H, W).
        offset: (N, 2 * offset_groups * kh * kw, Ho, Wo), y before x, in pixels of the input.
        mask: (N, offset_groups * kh * kw, Ho, Wo), a factor for each sampling location.

    Returns:
        (N, out_channels, Ho, Wo).
    """
    # Sampling locations beyond the padded map read zeros.
    input, padding = pad_beforehand(conv, input)
    return deform_conv2d(input, offset, conv.weight, conv.bias, conv.stride, padding, conv.dilation, mask)  # type: ignore[arg-type]


def check_tensorflow_padding(tensorflow_padding: bool, padding: Any, padding_mode: str) -> None:
    """Check that no other padding is asked for where TensorFlow's is.

    Raises:
        ValueError: it is.
    """
    if tensorflow_padding and (padding not in (0, (0, 0)) or padding_mode != "zeros"):
        raise ValueError(f"padding: tensorflow_padding takes 0 and zeros, got {padding!r} and {padding_mode!r}")
