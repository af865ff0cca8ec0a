"""Multi-scale deformable attention in plain PyTorch, any device, any order of derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    normalized: bool = True,
) -> Tensor:
    """Multi-scale deformable attention by the text of its definition (Zhu et al., 2021, equation 3).

    Holds four pixels for every sample and channel. Arguments are those of :func:`dcnlab.ops.ms_deform_attn`, checked
    there. No number is read from the tensor of shapes, so a GPU is not waited for.
    """
    batch, length, heads, channels = value.shape
    queries, levels, points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    real = torch.float64 if value.dtype == torch.float64 else torch.float32
    size = spatial_shapes.view(levels, 1, 2)
    height, width, start = size[..., 0], size[..., 1], level_start_index.view(levels, 1)  # each (levels, 1)
    is_level = (height > 0) & (width > 0) & (start >= 0) & (start + height * width <= length)

    locations, factor = sampling_locations.to(real), attention_weights.to(real)
    x, y = locations.unbind(-1)
    if normalized:
        x, y = x * width - 0.5, y * height - 0.5
    inside = (y > -1) & (y < height) & (x > -1) & (x < width) & is_level  # NaN is not inside
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.floor(), x.floor()

    rows = value.to(real).permute(0, 2, 1, 3)  # (N, heads, S, channels)
    samples = (batch, heads, queries * levels * points)
    total = rows.new_zeros(()).expand(*samples, channels)
    for corner_y, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for corner_x, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            weight = weight_y * weight_x
            on_map = inside & (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            on_map = on_map & (factor.isfinite() | (weight != 0))  # infinity times a weight of zero would be NaN
            index = torch.where(on_map, start + corner_y.long() * width + corner_x.long(), 0)
            index, weight, on_map = (t.permute(0, 2, 1, 3, 4).reshape(samples) for t in (index, weight, on_map))
            # Where there is no pixel at all, nothing can be gathered, and nothing is on the map.
            read = rows.gather(2, index.unsqueeze(3).expand(-1, -1, -1, channels)) if length else rows.new_zeros(())
            total = total + weight.unsqueeze(3) * torch.where(on_map.unsqueeze(3), read, 0)
    factor = torch.where(inside, factor, 0).permute(0, 2, 1, 3, 4).reshape(samples)
    output = (total * factor.unsqueeze(3)).view(batch, heads, queries, levels * points, channels).sum(3)
    return output.transpose(1, 2).reshape(batch, queries, heads * channels).to(value.dtype)
