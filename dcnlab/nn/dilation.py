"""Sets the dilation of convolutions, with the padding that keeps the size of their output."""

from __future__ import annotations

from torch import nn

from dcnlab.nn.offset_branch import OffsetBranch
from dcnlab.nn.padding import pads_as_tensorflow


def check_rate(rate: int) -> None:
    """Check a dilation rate.

    Raises:
        ValueError: it is not an int of at least 1.
    """
    if not isinstance(rate, int) or rate < 1:
        raise ValueError(f"rate: must be an int of at least 1, got {rate!r}")


def check_keeps_size(name: str, conv: nn.Conv2d, rate: int) -> None:
    """Check that a padding keeps the size of a layer's output under another dilation.

    Args:
        name: of the layer, for the error.
        conv: the layer.
        rate: its new dilation.

    Raises:
        ValueError: no padding keeps the size, or only a negative one does.
    """
    if pads_as_tensorflow(conv):
        return
    if any((k - 1) * (rate - d) % 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)):
        raise ValueError(f"rate: {rate} would change the output size of {name}, whose kernel is {conv.kernel_size}")
    padding = _padding_for(conv, rate)
    if min(padding) < 0:
        raise ValueError(f"rate: {rate} would need a negative padding in {name}: {padding}")


def _padding_for(conv: nn.Conv2d | OffsetBranch, rate: int) -> tuple[int, int]:
    """The padding with which another dilation leaves the output's size as it is; "same" counts as none, and stays."""
    if pads_as_tensorflow(conv):
        return 0, 0
    padding = (0, 0) if isinstance(conv.padding, str) else conv.padding
    sizes = zip(padding, conv.kernel_size, conv.dilation, strict=True)
    height, width = (p + (k - 1) * (rate - d) // 2 for p, k, d in sizes)
    return (max(height, 0), max(width, 0)) if conv.padding == "same" else (height, width)


def set_dilation(conv: nn.Conv2d | OffsetBranch, rate: int) -> None:
    """Set the dilation of a layer or an offset branch, and its padding; "same" padding stays."""
    if conv.padding != "same":
        conv.padding = _padding_for(conv, rate)
    conv.dilation = (rate, rate)
    # What Conv2d derives from padding and dilation when it is made, for the padding modes that pad beforehand.
    like = nn.Conv2d(1, 1, conv.kernel_size, padding=conv.padding, dilation=conv.dilation, device="meta")  # type: ignore[arg-type]
    conv._reversed_padding_repeated_twice = like._reversed_padding_repeated_twice
