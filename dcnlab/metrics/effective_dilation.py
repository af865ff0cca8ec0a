"""Effective dilation: how far apart the sampling points of a deformable filter lie (paper, section 4.2 and table 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcnlab.metrics.dilation_sizes import SIDES, SIZES

_NEITHER = -1


def effective_dilation(offset: Tensor, kernel_size: int | Sequence[int], dilation: int | Sequence[int]) -> Tensor:
    """Mean distance between adjacent sampling points of each deformable filter (paper, section 4.2 and table 2).

    The paper prints no formula. Adjacent are the horizontal and vertical neighbours in the undeformed grid, the 12
    pairs of a 3x3 filter. A filter whose input channels fall into groups with separate offsets has so many pairs of
    each group, and the mean is over all of them.

    Args:
        offset: (N, 2 * groups * kh * kw, H, W), y before x, in pixels of the layer's input map.
        kernel_size: k, or (kh, kw).
        dilation: spacing of the undeformed grid, in the same pixels; or (vertical, horizontal).

    Returns:
        (N, H, W) in float32, or float64 for float64 offsets; pixels. Equals `dilation` where offsets are zero.

    Raises:
        ValueError: the channels are not a multiple of 2 kh kw, or the filter has one point alone.
    """
    (kh, kw), (dy, dx) = _pair(kernel_size), _pair(dilation)
    if kh * kw < 2:
        raise ValueError(f"kernel_size: {kh}x{kw} has one sampling point, and no distance between two")
    if offset.ndim != 4 or offset.shape[1] == 0 or offset.shape[1] % (2 * kh * kw):
        raise ValueError(
            f"offset: of shape {tuple(offset.shape)}; a {kh}x{kw} filter's is (N, {2 * kh * kw} for each group, H, W)"
        )
    real = torch.promote_types(offset.dtype, torch.float32)
    batch, _, height, width = offset.shape
    points = offset.to(real).reshape(batch, -1, kh, kw, 2, height, width)
    below, beside = points.diff(dim=2), points.diff(dim=3)
    distances = [
        torch.hypot(below[..., 0, :, :] + dy, below[..., 1, :, :]).flatten(1, 3),
        torch.hypot(beside[..., 0, :, :], beside[..., 1, :, :] + dx).flatten(1, 3),
    ]
    return torch.cat(distances, 1).mean(1)


def size_of_positions(
    y: Tensor,
    x: Tensor,
    boxes: Tensor,
    areas: Tensor,
    left_out: Tensor | None = None,
    sides: tuple[float, float] = SIDES,
) -> Tensor:
    """Tell for each position of a map the size of the box that it lies in.

    A box holds its left and upper edges, not the right and lower ones. A position in several boxes belongs to the one
    of the smallest area, the object in front more often than not. From `sides[0]` squared to `sides[1]` squared, both
    included, is medium.

    Args:
        y: (H,), the rows' centres, in pixels of the image, continuous, from 0: a pixel's centre is its index + 1/2.
        x: (W,), the columns' centres, likewise.
        boxes: (B, 4), x1, y1, x2, y2 in the same pixels.
        areas: (B,), which their sizes are told by; in the pixels of another scale, if so wished.
        left_out: (B,) bool: positions that lie in no other box than one of these count for nothing; None: no such box.
        sides: of the squares that part the sizes.

    Returns:
        (H, W) int64: 0 small, 1 medium, 2 large, 3 background, and -1 where a position counts for nothing.
    """
    sizes = torch.full((len(y), len(x)), SIZES.index("background"), device=y.device)
    if not len(boxes):
        return sizes
    kinds = (areas >= sides[0] ** 2).long() + (areas > sides[1] ** 2).long()
    front = areas.to(torch.float64)
    if left_out is not None:
        kinds = torch.where(left_out, _NEITHER, kinds)
        front = torch.where(left_out, torch.inf, front)  # behind every other box
    for box in front.argsort(descending=True, stable=True):
        x1, y1, x2, y2 = boxes[box].unbind()
        inside = ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))
        sizes[inside] = kinds[box]
    return sizes


class Spread:
    """Mean and standard deviation of numbers that come in parts, each part summed in float64 about its own mean.

    The deviation is of all the numbers seen (division by their count, not by one less).
    """

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def update(self, values: Tensor) -> None:
        """Take some more numbers, of any shape (Chan, Golub and LeVeque 1983, the sum of two parts)."""
        values = values.double()
        count = values.numel()
        if not count:
            return
        mean = float(values.mean())
        squares, shift = float((values - mean).square().sum()), mean - self.mean
        total = self.count + count
        self.mean += shift * count / total
        self._squares += squares + shift**2 * self.count * count / total
        self.count = total

    def summary(self) -> dict[str, float | int] | None:
        """`mean`, `std`, `count`; None where there was no number."""
        if not self.count:
            return None
        return {"mean": self.mean, "std": (self._squares / self.count) ** 0.5, "count": self.count}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
