"""RoIAlign-style deformable RoI pooling in plain PyTorch, any device, any order of derivative."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dcnlab.ops.pool_geometry import MAX_SAMPLES


def deform_roi_pool(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None = None,
    output_size: tuple[int, int] = (7, 7),
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """RoIAlign-style deformable RoI pooling, sample by sample.

    Arguments are those of :func:`dcnlab.ops.deform_roi_pool`, checked there, with boxes as (R, 5) and a pair of sizes.
    """
    batch, _, height, width = input.shape
    real = torch.float64 if input.dtype == torch.float64 else torch.float32
    boxes = boxes.detach().to(real)
    on_batch = (boxes[:, 0] >= 0) & (boxes[:, 0] < batch)
    image = torch.where(on_batch, boxes[:, 0], 0).long()

    def places(axis: int) -> tuple[Tensor, Tensor]:
        """Where a bin's samples lie on an axis (0: x, 1: y), (R, out_height, out_width, n), and how many a box has."""
        bins = output_size[1 - axis]
        start = boxes[:, 1 + axis] * spatial_scale - 0.5
        size = (boxes[:, 3 + axis] - boxes[:, 1 + axis]) * spatial_scale
        bin_size = size / bins
        number = torch.full_like(size, sampling_ratio)
        if sampling_ratio == 0:
            number = bin_size.float().ceil().to(real)
            number = torch.where((number >= 1) & (number <= MAX_SAMPLES), number, 0)  # NaN gives none
        start = start[:, None, None].expand(-1, *output_size)
        if offset is not None:
            start = start + gamma * size[:, None, None] * offset[:, axis].to(real)
        bin_number = torch.arange(bins, dtype=real, device=input.device)
        first = start + (bin_number if axis == 0 else bin_number[:, None]) * bin_size[:, None, None]
        most = int(number.max()) if len(boxes) else 0
        sample = torch.arange(most, dtype=real, device=input.device)
        step = (sample + 0.5) * bin_size[:, None] / number[:, None].clamp(min=1)
        location = first[..., None] + step[:, None, None]
        return torch.where(sample < number[:, None, None, None], location, torch.nan), number

    (x, count_x), (y, count_y) = places(0), places(1)
    taps_x, taps_y = _taps(x, width), _taps(y, height)
    # One pixel more, for sampling locations outside, and one image more, for boxes of none: both zero.
    pixels = functional.pad(input.to(real).flatten(2), (0, 1, 0, 0, 0, 1))
    image = torch.where(on_batch, image, batch)[:, None, None]
    total = pixels[image, :, height * width].expand(-1, *output_size, -1)  # zero, and a function of the input
    for i in range(y.shape[3]):
        for j in range(x.shape[3]):
            for row, weight_row in taps_y:
                for column, weight_column in taps_x:
                    at_row, at_column = row[..., i], column[..., j]
                    at = torch.where((at_row >= 0) & (at_column >= 0), at_row * width + at_column, height * width)
                    total = total + (weight_row[..., i] * weight_column[..., j])[..., None] * pixels[image, :, at]
    mean = total / (count_y * count_x).clamp(min=1)[:, None, None, None]
    return mean.permute(0, 3, 1, 2).to(input.dtype)


def _taps(location: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels along an axis that a location is read from, with their weights; pixel -1 outside [-1, size].

    The value is constant over [-1, 0] and [size - 1, size]. Autograd through floor gives the right-hand derivative at
    integers, and none where the value is constant.
    """
    inside = (location >= -1) & (location <= size)  # NaN is not inside
    location = torch.where(inside & (location >= 0), location, 0)
    low = location.floor()
    last = low >= size - 1
    fraction = torch.where(last, 0, location - low)
    low = low.clamp(max=size - 1).long()
    high = torch.where(last, low, low + 1)
    return [(torch.where(inside, low, -1), 1 - fraction), (torch.where(inside, high, -1), fraction)]
