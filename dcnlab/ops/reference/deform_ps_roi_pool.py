"""Deformable position-sensitive RoI pooling in plain PyTorch, any device, any order of derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def deform_ps_roi_pool(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None = None,
    output_size: int = 7,
    spatial_scale: float = 1.0,
    group_size: int = 1,
    part_size: int | None = None,
    samples_per_bin: int = 4,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable position-sensitive RoI pooling, sample by sample (paper, section 2.2).

    Arguments are those of :func:`dcnlab.ops.deform_ps_roi_pool`, checked there, with boxes as (R, 5).
    """
    batch, channels, height, width = input.shape
    bins, parts = output_size, output_size if part_size is None else part_size
    out_channels = channels // group_size**2
    classes = 1 if offset is None else offset.shape[1] // 2
    real = torch.float64 if input.dtype == torch.float64 else torch.float32
    device = input.device

    boxes = boxes.detach().to(real)
    corners = _round_half_away(boxes[:, 1:])
    start = corners[:, :2] * spatial_scale - 0.5  # (R, 2): x, y
    size = ((corners[:, 2:] + 1 - corners[:, :2]) * spatial_scale).clamp(min=0.1)
    bin_size = size / bins

    bin_of = torch.arange(bins, device=device)
    part_of = (bin_of.to(real) / bins * parts).floor().long()
    if offset is None:
        offsets = boxes.new_zeros(len(boxes), classes, 2, bins, bins)
    else:
        offsets = offset.to(real).view(len(boxes), classes, 2, parts, parts)[..., part_of, :][..., part_of] * gamma

    def places(axis: int, bin_number: Tensor) -> Tensor:
        """Where each bin's samples lie on an axis (0: x, 1: y): (R, classes, bins, bins, samples)."""
        first = (start[:, axis, None, None] + bin_number * bin_size[:, axis, None, None])[:, None]
        first = first + offsets[:, :, axis] * size[:, axis, None, None, None]
        step = bin_size[:, axis] / samples_per_bin
        return first[..., None] + torch.arange(samples_per_bin, device=device, dtype=real) * step[:, *(None,) * 4]

    x, y = places(0, bin_of.to(real)), places(1, bin_of.to(real)[:, None])
    x_kept, y_kept = (x >= -0.5) & (x <= width - 0.5), (y >= -0.5) & (y <= height - 0.5)  # NaN is not kept
    x, y = torch.where(x_kept, x, 0).clamp(0, width - 1), torch.where(y_kept, y, 0).clamp(0, height - 1)

    # A channel k of bin (i, j) reads input channel (k * group + i * group // bins) * group + j * group // bins.
    on_batch = (boxes[:, 0] >= 0) & (boxes[:, 0] < batch)
    image = torch.where(on_batch, boxes[:, 0], 0).long()
    cell = bin_of * group_size // bins
    row_of_cells = torch.arange(out_channels, device=device)[:, None, None] * group_size + cell[:, None]
    channel = row_of_cells * group_size + cell
    plane = image[:, None, None, None] * channels + channel  # (R, out_channels, bins, bins)
    pixels = torch.cat((input.to(real).flatten(), input.new_zeros(1, dtype=real)))
    nowhere = pixels.numel() - 1

    def of_channels(of_class: Tensor) -> Tensor:
        return of_class.repeat_interleave(out_channels // classes, 1)

    total = pixels.new_zeros(plane.shape)
    count = pixels.new_zeros(plane.shape)
    for i in range(samples_per_bin):
        for j in range(samples_per_bin):
            kept = of_channels(y_kept[..., i] & x_kept[..., j]) & on_batch[:, None, None, None]
            row, column = of_channels(y[..., i]), of_channels(x[..., j])
            down, right = row - row.floor(), column - column.floor()
            # low and high are one pixel at an integer, so the slope there is zero, as in the authors' kernel.
            for at_row, weight_row in ((row.floor(), 1 - down), (row.ceil(), down)):
                for at_column, weight_column in ((column.floor(), 1 - right), (column.ceil(), right)):
                    index = (plane * height + at_row.long()) * width + at_column.long()
                    value = pixels[torch.where(kept, index, nowhere)]
                    total = total + weight_row * weight_column * value
            count = count + kept
    return (total / count.clamp(min=1)).to(input.dtype)


def _round_half_away(value: Tensor) -> Tensor:
    """C's round: 2.5 -> 3 and -2.5 -> -3, where torch's rounds halves to even."""
    whole = value.trunc()
    return torch.where((value - whole).abs() >= 0.5, whole + value.sign(), whole)
