"""Padding of convolutions: torch's modes, and TensorFlow's, whose amounts follow from the input's size."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

_SAME = ("Conv2dSame", "Conv2dSameExport", "Conv2dDynamicSamePadding")
_SAME_PACKAGES = ("timm", "efficientnet_pytorch", "efficientnet_lite_pytorch")


def pads_as_tensorflow(conv: Any) -> bool:
    """Whether a convolution pads as TensorFlow's "SAME" does: ours by its attribute, those of timm by their class."""
    kind = type(conv)
    foreign = kind.__name__ in _SAME and kind.__module__.partition(".")[0] in _SAME_PACKAGES
    return foreign or getattr(conv, "tensorflow_padding", False)


def pads(conv: Any, input: Tensor) -> tuple[int, int, int, int]:
    """The pixels that a convolution adds to an input (N, C, H, W): left, right, top, bottom.

    TensorFlow's "SAME" makes an output of ceil(size / stride) pixels. An odd pixel of padding goes to the far side.
    """
    if not pads_as_tensorflow(conv):
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        return left, right, top, bottom
    height, width = (
        max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        for size, kernel, stride, dilation in zip(
            input.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
        )
    )
    return width // 2, width - width // 2, height // 2, height - height // 2


def pad_beforehand(conv: Any, input: Tensor) -> tuple[Tensor, Any]:
    """Add the padding that is not the same number of zeros on both sides of an axis.

    Returns:
        The padded input, and the padding that is left to the convolution.
    """
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if plain and not pads_as_tensorflow(conv):
        return input, conv.padding
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(input, pads(conv, input), mode=mode), (0, 0)
