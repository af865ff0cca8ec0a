"""Spatial transformer: resamples the whole image by an affine map predicted from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.nn.offset_branch import OffsetRegressor, zero
from dcnlab.ops import deform_conv2d

GRID = 4
"""The localisation net's features are means over so many rows and columns of cells."""

SMALLEST = 4 * (GRID - 1) + 1
"""Side of the smallest image, pixels: after the two strides each cell still has one pixel."""


class CellMeans(nn.Module):
    """Means of a map over 4x4 cells, which keep the position of features.

    torch's adaptive pooling computes the same, but its gradient on a GPU is not repeatable.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), of at least 4x4 pixels, to (N, 16 * C), cell by cell."""
        rows = features.tensor_split(GRID, dim=2)
        return torch.cat([cell.mean((2, 3)) for row in rows for cell in row.tensor_split(GRID, dim=3)], dim=1)


class SpatialTransformer(nn.Module):
    """Resample images by affine maps that a small network reads from them (Jaderberg et al. 2015, section 3).

    The network, `localisation`, says how far each image's matrix is from the identity. Its last layer starts at zero,
    so a fresh module gives back its input to the bit. That layer ignores autocast. Sampling is bilinear and zero
    outside the image, as the paper's and torch's grid_sample, but on the deformable operator, the offsets being how
    far the map moves each pixel: its gradient is repeatable on a GPU. It runs in float64, for the images are to be
    moved and not rounded, neither by TF32 nor under autocast; on a CPU it takes several times as long as grid_sample.

    The paper leaves the network's form open (section 3.1); this one has two 5x5 convolutions of stride 2, means over
    4x4 cells, and two linear layers. It takes images of any size from 13x13.

    Args:
        in_channels: of the images.
        channels: of the localisation net's convolutions.
        features: of its hidden linear layer.
        device: of its parameters.
        dtype: likewise.

    Shape:
        (N, in_channels, H, W) to the same.

    Raises:
        ValueError: in the forward pass, images smaller than 13x13.
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 20,
        features: int = 32,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.localisation = nn.Sequential(
            nn.Conv2d(in_channels, channels, 5, stride=2, padding=2, **kind),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 5, stride=2, padding=2, **kind),
            nn.ReLU(inplace=True),
            CellMeans(),
            nn.Linear(GRID**2 * channels, features, **kind),
            nn.ReLU(inplace=True),
            OffsetRegressor(features, 6, **kind),
        )

    def reset_map(self) -> None:
        """Make the map the identity again, for every image."""
        zero(self.localisation[-1])

    def matrices(self, images: Tensor) -> Tensor:
        """Read the affine maps from images.

        Returns:
            (N, 2, 3), float64, from a location of the output, (x, y, 1) with both between -1 and 1 from edge to edge
            of the image, to the location of the input, (x, y), that it shows, as torch's affine_grid without
            align_corners.
        """
        departure = self._departure(images)
        return departure + torch.eye(2, 3, device=departure.device, dtype=departure.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Resample (N, in_channels, H, W)."""
        departure = self._departure(images)
        height, width = images.shape[2:]
        y, x = (
            (2 * torch.arange(size, device=departure.device, dtype=departure.dtype) + 1) / size - 1
            for size in (height, width)
        )
        by_x, by_y, translation = departure[..., None, None].unbind(dim=2)
        moved_x, moved_y = (by_x * x + by_y * y[:, None] + translation).unbind(dim=1)
        # From the edges' -1 and 1 to pixels; the operator has y before x.
        offset = torch.stack([moved_y * height / 2, moved_x * width / 2], dim=1)
        channels = images.shape[1]
        keep = torch.eye(channels, device=images.device, dtype=torch.float64).view(channels, channels, 1, 1)
        return deform_conv2d(images.double(), offset, keep).to(images.dtype)

    def _departure(self, images: Tensor) -> Tensor:
        """The matrices less the identity: in half precision their sum would lose a pixel's fractions."""
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST:
            raise ValueError(f"images: {height}x{width}; the localisation net needs at least {SMALLEST}x{SMALLEST}")
        departure: Tensor = self.localisation(images)
        return departure.view(-1, 2, 3).double()
