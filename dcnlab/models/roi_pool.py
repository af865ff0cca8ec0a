"""Plain RoI poolings: deformable RoI pooling's without offsets, and the authors'."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import ps_roi_pool, roi_pool

from dcnlab.ops import deform_ps_roi_pool


class PlainRoIPool(nn.Module):
    """Average each bin of a box as deformable RoI pooling does, with all offsets zero.

    A detector with it computes what its deformable counterpart computes before it has learned an offset. It is not
    torchvision's `RoIPool`, which takes the maximum. The authors' plain networks differ from it too: Faster R-CNN takes
    the maximum of a bin, R-FCN the mean over whole pixels.

    Args:
        output_size: bins along each side of a box.
        spatial_scale: pixels of the map per pixel of the image.
        group_size: 1; or, for position-sensitive score maps, group cells along each side of a box.
        samples_per_bin: along each side of a bin.

    Shape:
        features (N, channels * group_size^2, H, W); boxes as a list with (L, 4) for each image, R in all; output
        (R, channels, output_size, output_size).
    """

    def __init__(
        self, output_size: int = 7, spatial_scale: float = 1.0, group_size: int = 1, samples_per_bin: int = 4
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.group_size = group_size
        self.samples_per_bin = samples_per_bin

    def forward(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Pool boxes from features."""
        return deform_ps_roi_pool(
            features,
            boxes,
            None,
            self.output_size,
            self.spatial_scale,
            self.group_size,
            samples_per_bin=self.samples_per_bin,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, group_size={self.group_size}, "
            f"samples_per_bin={self.samples_per_bin}"
        )


class AuthorsRoIPool(nn.Module):
    """The pooling of the authors' plain networks, by torchvision: whole pixels, each bin's maximum or mean.

    Args:
        output_size: bins along each side of a box.
        spatial_scale: pixels of the map per pixel of the image.
        position_sensitive: of maps that have a channel for each bin, the mean; else the maximum.

    Shape:
        as :class:`PlainRoIPool`.
    """

    def __init__(self, output_size: int, spatial_scale: float, position_sensitive: bool = False) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.position_sensitive = position_sensitive

    def forward(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Pool boxes from features."""
        pool = ps_roi_pool if self.position_sensitive else roi_pool
        alike = [box.to(features.dtype) for box in boxes]
        pooled: Tensor = pool(features, alike, self.output_size, self.spatial_scale)
        return pooled

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"position_sensitive={self.position_sensitive}"
        )


def plain_pool(kind: str, output_size: int, spatial_scale: float, position_sensitive: bool = False) -> nn.Module:
    """The pooling of a plain network.

    Args:
        kind: mean, :class:`PlainRoIPool`; or authors, the maximum of a bin's whole pixels, of position-sensitive maps
            their mean, as torchvision has them.
        output_size: bins along each side of a box.
        spatial_scale: pixels of the map per pixel of the image.
        position_sensitive: whether the maps have a channel for each bin.
    """
    if kind == "mean":
        return PlainRoIPool(output_size, spatial_scale, output_size if position_sensitive else 1)
    return AuthorsRoIPool(output_size, spatial_scale, position_sensitive)
