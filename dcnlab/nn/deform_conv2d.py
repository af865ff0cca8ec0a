"""Deformable convolution: offsets predicted from the input for every output pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dcnlab.nn.moved_taps import arguments, check_offset_groups, check_tensorflow_padding, convolve
from dcnlab.nn.offset_branch import BRANCHES


class DeformConv2d(nn.Conv2d):
    """A 2d convolution whose sampling locations move by offsets learned from the same input (paper, section 2.1).

    It is a `torch.nn.Conv2d` in everything else: arguments, parameters `weight` and `bias`, initialisation. The
    offsets come from `offset_conv`, a convolution of the same kernel, stride, padding and dilation that starts at zero,
    so a fresh layer computes what the plain convolution computes.

    Under autocast the offsets are predicted in the branch's own dtype, float32. On a CPU with bfloat16 products that
    costs a layer of 256 or 512 channels up to 8 % of its time. On a GPU it is one copy of the input, and products
    that are 18 / out_channels of the layer's at TF32's rate, where torch's switch for convolutions allows TF32. A
    layer that is itself bfloat16 (`layer.bfloat16()`) predicts in bfloat16, in which an offset of 8 to 16 pixels is
    known to 1/16 pixel, in float16 to 1/128; the sampling locations that it leads to are float32.

    Initialisation loops leave the offsets at zero: `reset_parameters` of the layer or of the branch zeroes them, and
    the branch is not an nn.Conv2d, so that a loop over those skips it. A loop over bare parameters, or over all modules
    with a weight, does not: call `reset_offsets` after it. An optimizer whose parameters are gathered by class has to
    gather the branch too (`layer.offset_conv`), or the offsets stay at zero.

    The arguments up to `dtype` are those of torch.nn.Conv2d.

    Args:
        offset_groups: groups of input channels, each with separate offsets (the authors' "deformable groups").
        modulated: learn a factor between 0 and 2 for each sampling location too (deformable convolution version 2). It
            is twice a sigmoid, hence 1 at the start; the version 2 paper's plain sigmoid starts at one half.
        offset_branch: dense, the paper's convolution of all input channels; or depthwise, a kernel for each channel
            and then a 1x1 convolution. Dense has 2 * offset_groups * (kh * kw)^2 weights for each input channel:
            18 times those of a depthwise 3x3 layer. Depthwise has (1 + 2 * offset_groups) * kh * kw.
        tensorflow_padding: pad as TensorFlow's "SAME" does: to an output of ceil(size / stride), an odd pixel on the
            far side. `padding` is 0 then.

    Shape:
        input (N, in_channels, H, W), batched always, output (N, out_channels, Ho, Wo) as in torch.nn.Conv2d; offsets
        (N, 2 * offset_groups * kh * kw, Ho, Wo), y before x, in pixels of the input.

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
        modulated: bool = False,
        offset_branch: str = "dense",
        tensorflow_padding: bool = False,
    ) -> None:
        check_offset_groups(offset_groups, in_channels)
        check_tensorflow_padding(tensorflow_padding, padding, padding_mode)
        if offset_branch not in BRANCHES:
            raise ValueError(f"offset_branch: {offset_branch!r} is none of {', '.join(BRANCHES)}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.offset_groups = offset_groups
        self.modulated = modulated
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.offset_channels = 2 * offset_groups * taps
        self.tensorflow_padding = tensorflow_padding
        self.offset_conv = BRANCHES[offset_branch](
            in_channels,
            self.offset_channels + (offset_groups * taps if modulated else 0),
            kernel_size,
            stride,
            padding,
            dilation,
            padding_mode,
            device,
            dtype,
            tensorflow_padding,
        )

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, offset_groups: int = 1, modulated: bool = False, offset_branch: str = "dense"
    ) -> DeformConv2d:
        """Make the deformable counterpart of a convolution around the very same weight and bias; draws nothing."""
        # On meta no weights are drawn, only to be thrown away: the random generator stays as it is.
        options: dict[str, Any] = {"offset_groups": offset_groups, "modulated": modulated}
        layer = cls(**arguments(conv) | {"device": "meta"}, offset_branch=offset_branch, **options)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.offset_conv.to_empty(device=conv.weight.device)
        layer.reset_offsets()
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as Conv2d does, and zero the offsets."""
        super().reset_parameters()
        if "offset_conv" in self._modules:  # Conv2d calls this before there is one
            self.reset_offsets()

    def reset_offsets(self) -> None:
        """Make the layer plain again: offsets zero, every factor one."""
        self.offset_conv.reset_parameters()

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict the offsets, and the factors of a modulated layer, for an input map.

        Returns:
            offset: (N, 2 * offset_groups * kh * kw, Ho, Wo), y before x, in pixels of the input; of the branch's dtype,
                under autocast too.
            mask: (N, offset_groups * kh * kw, Ho, Wo), between 0 and 2; None where the layer is not modulated.
        """
        predicted = self.offset_conv(input)
        if not self.modulated:
            return predicted, None
        offset, logits = predicted.split((self.offset_channels, predicted.shape[1] - self.offset_channels), dim=1)
        return offset, 2 * logits.sigmoid()

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W) at the learned sampling locations."""
        return convolve(self, input, *self.offsets(input))

    def extra_repr(self) -> str:
        """Conv2d's text, and the kind of offsets where it is not the default."""
        text = super().extra_repr()
        if self.offset_groups != 1:
            text += f", offset_groups={self.offset_groups}"
        text += ", modulated=True" if self.modulated else ""
        return text + (", tensorflow_padding=True" if self.tensorflow_padding else "")
