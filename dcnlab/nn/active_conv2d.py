"""Active convolution: learned offsets, the same for all images and output pixels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dcnlab.nn.moved_taps import arguments, check_offset_groups, check_tensorflow_padding, convolve, output_size


class ActiveConv2d(nn.Conv2d):
    """A 2d convolution whose taps move by offsets learned for the layer (Jeon and Kim 2017, "Active Convolution").

    Unlike those of `dcnlab.nn.DeformConv2d`, the offsets are parameters: the same for every image and every
    output pixel. It is what a deformable convolution is when the weight of its offset convolution stays zero, `offset`
    being that convolution's bias (paper, section 3, "Active convolution"). It is a `torch.nn.Conv2d` in all
    else, and a fresh layer computes what the plain convolution computes. Bilinear interpolation has a kink at whole
    pixels, where a fresh layer's taps are; the gradient there is the right-hand one, as in the authors' code.

    Where it differs from the authors' layer: all taps move, also the one in the middle; groups are of input channels
    (as in deformable convolution), not of output channels; and the gradient is not normalised to a length of one for
    each tap, which is the optimizer's business (AdamW's steps are of the learning rate's size by themselves). Theirs
    learns positions at 0.01 times the base rate, without weight decay.

    The arguments up to `dtype` are those of torch.nn.Conv2d.

    Args:
        offset_groups: groups of input channels, each with separate offsets.
        tensorflow_padding: pad as TensorFlow's "SAME" does, see `dcnlab.nn.DeformConv2d`.

    Attributes:
        offset: (2 * offset_groups * kh * kw,), y before x for each tap, in pixels of the input.

    Shape:
        input (N, in_channels, H, W), batched always, output (N, out_channels, Ho, Wo) as in torch.nn.Conv2d.

    Raises:
        ValueError: `offset_groups` does not divide `in_channels`.
    """

    # A plain convolution with a larger kernel computes the same: each weight spread over the four taps around its
    # location. Its size would depend on the offsets' values: a wait for the GPU in each forward pass, a compilation for
    # each size, and memory that a far tap blows up. Hence the deformable operator, with the offsets repeated.

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
        tensorflow_padding: bool = False,
    ) -> None:
        check_offset_groups(offset_groups, in_channels)
        check_tensorflow_padding(tensorflow_padding, padding, padding_mode)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.offset_groups = offset_groups
        self.tensorflow_padding = tensorflow_padding
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.offset = nn.Parameter(torch.empty(2 * offset_groups * taps, device=device, dtype=dtype))
        self.reset_offsets()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, offset_groups: int = 1) -> ActiveConv2d:
        """Make the active counterpart of a convolution around the very same weight and bias; draws nothing."""
        # On meta no weights are drawn, only to be thrown away: the random generator stays as it is.
        layer = cls(**arguments(conv) | {"device": "meta"}, offset_groups=offset_groups)
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.offset = nn.Parameter(torch.empty_like(layer.offset, device=conv.weight.device))
        layer.reset_offsets()
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as Conv2d does, and zero the offsets."""
        super().reset_parameters()
        if "offset" in self._parameters:  # Conv2d calls this before there are any
            self.reset_offsets()

    def reset_offsets(self) -> None:
        """Make the layer plain again: offsets zero."""
        nn.init.zeros_(self.offset)

    def offsets(self, input: Tensor) -> tuple[Tensor, None]:
        """Repeat the offsets over an input map's output, as `dcnlab.nn.DeformConv2d.offsets` predicts them.

        Returns:
            offset: (N, 2 * offset_groups * kh * kw, Ho, Wo), y before x, in pixels of the input; a view.
            mask: None, for there are no factors.
        """
        return self.offset.view(1, -1, 1, 1).expand(input.shape[0], -1, *output_size(self, input)), None

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in_channels, H, W) at the learned taps."""
        return convolve(self, input, *self.offsets(input))

    def extra_repr(self) -> str:
        """Conv2d's text, and the offset groups where there are several."""
        return super().extra_repr() + (f", offset_groups={self.offset_groups}" if self.offset_groups != 1 else "")
