"""The grid of a map's units over the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Pair = tuple[float, float]
"""Of the vertical and the horizontal axis."""


@dataclass(frozen=True)
class Grid:
    """Centres of a map's units in the image: unit i is at pixel scale * i + shift; a pixel's centre is its index.

    So the first pixel's centre is 0 and its edges are -1/2 and 1/2, as convolutions count. Coordinates of boxes start
    at the edge and are larger by 1/2.
    """

    scale: Pair = (1.0, 1.0)
    shift: Pair = (0.0, 0.0)

    def to_image(self, positions: Tensor) -> Tensor:
        """Pixels (..., 2) of positions (..., 2) on the map, y before x."""
        return positions * positions.new_tensor(self.scale) + positions.new_tensor(self.shift)

    def from_image(self, pixels: Tensor) -> Tensor:
        """Positions (..., 2) on the map of pixels (..., 2), y before x."""
        return (pixels - pixels.new_tensor(self.shift)) / pixels.new_tensor(self.scale)

    def step(self, stride: Sequence[float], first: Sequence[float]) -> Grid:
        """The grid of a map whose unit i is centred at unit stride * i + first of this one."""
        shift = (self.shift[0] + self.scale[0] * first[0], self.shift[1] + self.scale[1] * first[1])
        return Grid((self.scale[0] * stride[0], self.scale[1] * stride[1]), shift)
