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

from dcnlab.ops import autocast


class OffsetBranch(_ConvNd):
    """A 2d convolution that starts at zero and ignores autocast: `offset_conv` of the deformable layers.

    Under autocast its input is cast to its weight's dtype, float32 as a rule. In bfloat16 an offset of 8 to 16 pixels
    would be known to 1/16 pixel only.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, device, dtype: as in
            torch.nn.Conv2d; it always has a bias.

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

    def reset_parameters(self) -> None:
        """Set weight and bias to zero: no offset anywhere."""
        zero(self)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W)."""
        input, padding = _uncast(input, self.weight), self.padding
        with autocast.off(input.device.type):
            if self.padding_mode != "zeros":
                input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
                padding = (0, 0)
            return functional.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation)


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
