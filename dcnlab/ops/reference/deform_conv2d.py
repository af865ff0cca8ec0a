"""Deformable convolution in plain PyTorch, any device, any order of derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution by the text of its definition (paper, equation 2; modulated: DCN v2, equation 1).

    Materialises all columns, so memory grows with N * C * kh * kw * Ho * Wo. Arguments are those of
    :func:`dcnlab.ops.deform_conv2d`, checked there, with pairs already made of stride, padding and dilation.
    """
    batch, channels, height, width = input.shape
    out_channels, group_channels, kh, kw = weight.shape
    out_height, out_width = offset.shape[-2:]
    taps = kh * kw
    offset_groups = offset.shape[1] // (2 * taps)
    groups = channels // group_channels
    real = torch.float64 if input.dtype == torch.float64 else torch.float32

    offsets = offset.to(real).view(batch, offset_groups, kh, kw, 2, out_height, out_width)
    steps = [torch.arange(n, dtype=real, device=input.device) for n in (kh, kw, out_height, out_width)]
    tap_y, tap_x, row, column = steps
    y = (row * stride[0] - padding[0])[:, None] + (tap_y * dilation[0])[:, None, None, None] + offsets[..., 0, :, :]
    x = (column * stride[1] - padding[1]) + (tap_x * dilation[1])[:, None, None] + offsets[..., 1, :, :]

    # (batch, offset groups, channels of one, taps * Ho * Wo)
    pixels = input.to(real).reshape(batch, offset_groups, channels // offset_groups, height * width)
    factor = None if mask is None else mask.to(real).reshape(batch, offset_groups, taps * out_height * out_width)
    columns = _read_bilinearly(pixels, y.flatten(2), x.flatten(2), factor, height, width)
    columns = columns.reshape(batch, groups, group_channels * taps, out_height * out_width)
    filters = weight.to(real).reshape(groups, out_channels // groups, group_channels * taps)
    output = torch.einsum("gfc,ngcp->ngfp", filters, columns).reshape(batch, out_channels, out_height, out_width)
    if bias is not None:
        output = output + bias.to(real)[:, None, None]
    return output.to(input.dtype)


def _read_bilinearly(pixels: Tensor, y: Tensor, x: Tensor, factor: Tensor | None, height: int, width: int) -> Tensor:
    """Read (N, G, C, H*W) maps at (N, G, P) fractional sampling locations, times a factor; pixels off the map are zero.

    A location is read only where -1 < y < height and -1 < x < width, a test that NaN fails; elsewhere the result is
    zero, also where the factor is infinite. Autograd through floor gives the right-hand derivative at integers, and
    none outside.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.floor(), x.floor()
    result = pixels.new_zeros(()).expand(*pixels.shape[:3], y.shape[2])
    for corner_y, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for corner_x, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            weight = weight_y * weight_x
            on_map = inside & (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            if factor is not None:  # infinity times a weight of zero would make NaN of the pixel's gradient
                on_map = on_map & (factor.isfinite() | (weight != 0))
            index = torch.where(on_map, corner_y.long() * width + corner_x.long(), 0)
            index = index.unsqueeze(2).expand(-1, -1, pixels.shape[2], -1)
            value = torch.where(on_map.unsqueeze(2), pixels.gather(3, index), 0)
            result = result + weight.unsqueeze(2) * value
    return result if factor is None else result * torch.where(inside, factor, 0).unsqueeze(2)
