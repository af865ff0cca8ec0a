"""Layers that predict offsets: zero at the start, skipped by initialisation loops, never under autocast.

Neither is an nn.Conv2d or nn.Linear, nor has either word in its class's name. So a loop that draws the weights of all
convolutions or linear layers, by class or by name, passes them over; one that calls `reset_parameters` zeroes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _pair

from dcnlab.nn.padding import pad_beforehand
from dcnlab.ops import autocast


class OffsetBranch(_ConvNd):
    """A 2d convolution that starts at zero and ignores autocast: `offset_conv` of the deformable layers.

    Under autocast its input is cast to its weight's dtype, float32 as a rule. In bfloat16 an offset of 8 to 16 pixels
    would be known to 1/16 pixel only.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, device, dtype: as in
            torch.nn.Conv2d; it always has a bias.
        tensorflow_padding: pad as TensorFlow's "SAME" does; `padding` is 0 then.

    Shape:
        as torch.nn.Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        tensorflow_padding: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            _pair(kernel_size),
            _pair(stride),
            padding if isinstance(padding, str) else _pair(padding),
            _pair(dilation),
            False,  # not transposed
            _pair(0),
            1,  # group
            True,  # bias
            padding_mode,  # type: ignore[arg-type]  # checked there
            device,
            dtype,
        )
        self.tensorflow_padding = tensorflow_padding

    def reset_parameters(self) -> None:
        """Set weight and bias to zero: no offset anywhere."""
        zero(self)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W)."""
        input = _uncast(input, self.weight)
        with autocast.off(input.device.type):
            input, padding = pad_beforehand(self, input)
            return functional.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation)


class DepthwiseOffsetBranch(OffsetBranch):
    """An offset branch in two steps: a kernel for each channel, then a 1x1 convolution that starts at zero.

    The kernels start as the mean over their window, not at zero: two zeros in a row would never learn.

    Args:
        as in OffsetBranch.

    Attributes:
        depthwise: (in_channels, 1, kh, kw), the kernels.
        weight: (out_channels, in_channels, 1, 1), of the 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any) -> None:
        super().__init__(in_channels, out_channels, *args)
        like = self.weight
        self.weight = nn.Parameter(like.new_empty(out_channels, in_channels, 1, 1))
        self.depthwise = nn.Parameter(like.new_empty(in_channels, 1, *self.kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the 1x1 convolution to zero, no offset anywhere, and the kernels to a mean."""
        zero(self)
        if "depthwise" in self._parameters:  # the base class calls this before there are any
            nn.init.constant_(self.depthwise, 1 / (self.kernel_size[0] * self.kernel_size[1]))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W)."""
        input = _uncast(input, self.weight)
        with autocast.off(input.device.type):
            input, padding = pad_beforehand(self, input)
            options = (self.stride, padding, self.dilation, self.in_channels)
            return functional.conv2d(functional.conv2d(input, self.depthwise, None, *options), self.weight, self.bias)


BRANCHES = {"dense": OffsetBranch, "depthwise": DepthwiseOffsetBranch}
"""Kinds of offset branches of a deformable convolution."""


class OffsetRegressor(nn.Module):
    """A fully connected layer that starts at zero and ignores autocast: `offset_fc`, and an affine map's last layer.

    Args:
        in_features, out_features, device, dtype: as in torch.nn.Linear; it always has a bias.

    Shape:
        as torch.nn.Linear.
    """

    def __init__(
        self, in_features: int, out_features: int, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight and bias to zero: no offset anywhere."""
        zero(self)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply (..., in_features)."""
        input = _uncast(input, self.weight)
        with autocast.off(input.device.type):
            return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _uncast(input: Tensor, weight: Tensor) -> Tensor:
    """Under autocast, the input in the weight's dtype; elsewhere as it is."""
    return input.to(weight.dtype) if autocast.is_on(input.device.type) else input


def zero(layer: Any) -> None:
    """Set a layer's weight, and its bias where it has one, to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
