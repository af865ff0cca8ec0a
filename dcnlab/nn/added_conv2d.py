"""Control of deformable convolution: the offset convolution's maps are added to the output, and move no taps."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.nn.moved_taps import arguments, check_offset_groups, check_tensorflow_padding
from dcnlab.nn.offset_branch import DepthwiseOffsetBranch, OffsetBranch
from dcnlab.nn.padding import pad_beforehand


class AddedConv2d(nn.Conv2d):
    """A 2d convolution with the parameters of a deformable one, none of which moves a sampling location.

    It compares with `dcnlab.nn.DeformConv2d`: `offset_conv` has the same kernel, channels, stride, padding and
    dilation. Its maps are added to the output through a 1x1 convolution without bias, `added`, which starts at zero.
    So a fresh layer computes what the plain convolution computes. The whole branch is a low-rank convolution in
    parallel with the layer, as in LoRA (Hu et al. 2022), whose last factor starts at zero too.

    Two differences to the deformable layer. `added` has 2 * offset_groups * kh * kw * out_channels weights more:
    18 * out_channels for a 3x3 layer of one group. And `offset_conv.weight` is drawn as torch.nn.Conv2d draws it:
    two zeros in a row would never learn.

    The arguments up to `dtype` are those of torch.nn.Conv2d.

    Args:
        offset_groups: as in `dcnlab.nn.DeformConv2d`; here the number of maps alone depends on it.
        offset_branch: dense or depthwise, likewise.
        tensorflow_padding: likewise.

    Attributes:
        added: (out_channels, 2 * offset_groups * kh * kw, 1, 1), from the maps to the output.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, Ho, Wo) as in torch.nn.Conv2d; maps
        (N, 2 * offset_groups * kh * kw, Ho, Wo).

    Raises:
        ValueError: `offset_groups` does not divide `in_channels`; no such branch; two kinds of padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        offset_groups: int = 1,
        offset_branch: str = "dense",
        tensorflow_padding: bool = False,
    ) -> None:
        check_offset_groups(offset_groups, in_channels)
        check_tensorflow_padding(tensorflow_padding, padding, padding_mode)
        if offset_branch not in _BRANCHES:
            raise ValueError(f"offset_branch: {offset_branch!r} is none of {', '.join(_BRANCHES)}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.offset_groups = offset_groups
        self.tensorflow_padding = tensorflow_padding
        maps = 2 * offset_groups * self.kernel_size[0] * self.kernel_size[1]
        self.offset_conv = _BRANCHES[offset_branch](
            in_channels, maps, kernel_size, stride, padding, dilation, padding_mode, device, dtype, tensorflow_padding
        )
        self.added = nn.Parameter(torch.zeros(out_channels, maps, 1, 1, device=device, dtype=dtype))

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, offset_groups: int = 1, offset_branch: str = "dense") -> AddedConv2d:
        """Make the counterpart of a convolution around the very same weight and bias; draws the branch alone."""
        layer = cls(**arguments(conv) | {"device": "meta"}, offset_groups=offset_groups, offset_branch=offset_branch)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.offset_conv.to_empty(device=conv.weight.device)
        layer.added = nn.Parameter(torch.empty_like(layer.added, device=conv.weight.device))
        layer.reset_added()
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as Conv2d does, and the branch."""
        super().reset_parameters()
        if "added" in self._parameters:  # Conv2d calls this before there is one
            self.reset_added()

    def reset_added(self) -> None:
        """Make the layer plain again: nothing is added."""
        self.offset_conv.reset_parameters()
        nn.init.zeros_(self.added)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W), and add the maps."""
        padded, padding = pad_beforehand(self, input)
        output = functional.conv2d(padded, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return output + functional.conv2d(self.offset_conv(input), self.added)

    def extra_repr(self) -> str:
        """Conv2d's text, and the offset groups where there are several."""
        return super().extra_repr() + (f", offset_groups={self.offset_groups}" if self.offset_groups != 1 else "")


class _Drawn:
    """An offset branch whose last convolution is drawn as torch.nn.Conv2d draws its weight; the bias is zero."""

    def reset_parameters(self: Any) -> None:
        """Draw the weight."""
        super().reset_parameters()  # type: ignore[misc]  # the branch has it
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))


class _DrawnBranch(_Drawn, OffsetBranch):
    pass


class _DrawnDepthwiseBranch(_Drawn, DepthwiseOffsetBranch):
    pass


_BRANCHES = {"dense": _DrawnBranch, "depthwise": _DrawnDepthwiseBranch}
