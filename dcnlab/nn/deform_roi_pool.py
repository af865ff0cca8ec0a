"""Deformable RoI poolings: learned offsets for each bin (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.nn.offset_branch import OffsetBranch, OffsetRegressor, zero
from dcnlab.ops import autocast, deform_ps_roi_pool

Boxes = Tensor | Sequence[Tensor]


class DeformRoIPool(nn.Module):
    """RoI pooling whose bins move by offsets learned from the plainly pooled features (paper, section 2.2, figure 3).

    The features are pooled without offsets; a fully connected layer, `offset_fc`, makes of them an offset for each bin;
    then they are pooled again with every bin moved. The layer starts at zero, so a fresh module pools plainly, and
    ignores autocast: offsets have its dtype. The paper trains it at 0.01 times the base learning rate.

    Args:
        channels: of the features.
        output_size: bins along each side of a box.
        spatial_scale: pixels of the map per pixel of the image.
        samples_per_bin: along each side of a bin.
        gamma: factor of the normalised offsets.
        device: of `offset_fc`'s parameters.
        dtype: likewise.

    Shape:
        features (N, channels, H, W); boxes (R, 5), image number, x1, y1, x2, y2 in pixels of the image, or a list with
        (L, 4) for each image; output (R, channels, output_size, output_size).
    """

    def __init__(
        self,
        channels: int,
        output_size: int = 7,
        spatial_scale: float = 1.0,
        samples_per_bin: int = 4,
        gamma: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.samples_per_bin = samples_per_bin
        self.gamma = gamma
        self.offset_fc = OffsetRegressor(channels * output_size**2, 2 * output_size**2, device, dtype)

    def reset_offsets(self) -> None:
        """Make the module plain again: offsets zero."""
        zero(self.offset_fc)

    def offsets(self, features: Tensor, boxes: Boxes) -> Tensor:
        """Predict each bin's offset.

        Returns:
            (R, 2, output_size, output_size), x before y, as a fraction of the box's width and height before gamma.
        """
        pooled = self._pool(features, boxes, None)
        return self.offset_fc(pooled.flatten(1)).view(-1, 2, self.output_size, self.output_size)

    def forward(self, features: Tensor, boxes: Boxes) -> Tensor:
        """Pool (N, channels, H, W) at the bins' learned locations."""
        return self._pool(features, boxes, self.offsets(features, boxes))

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.channels}, output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"samples_per_bin={self.samples_per_bin}, gamma={self.gamma}"
        )

    def _pool(self, features: Tensor, boxes: Boxes, offset: Tensor | None) -> Tensor:
        return deform_ps_roi_pool(
            features,
            boxes,
            offset,
            self.output_size,
            self.spatial_scale,
            samples_per_bin=self.samples_per_bin,
            gamma=self.gamma,
        )


class DeformPSRoIPool(nn.Module):
    """Position-sensitive RoI pooling whose bins move by learned offsets, for each class (paper, section 2.2, figure 4).

    A 1x1 convolution of the features, `offset_conv`, makes offset maps of 2 * group_size^2 * classes channels; pooled
    position-sensitively over the same boxes they give each bin's offsets, by which the score maps are pooled. The
    convolution starts at zero, so a fresh module pools plainly, and ignores autocast: offsets have its dtype.

    Args:
        channels: of the features that the offset maps are made of.
        classes: that have separate offsets (C + 1 in the paper's R-FCN; 1 for class-agnostic box maps). The score
            maps' channels are cut into this many equal runs.
        output_size: bins along each side of a box.
        spatial_scale: pixels of the map per pixel of the image.
        group_size: group cells along each side of a box; None: one for each bin, as in the paper.
        samples_per_bin: along each side of a bin.
        gamma: factor of the normalised offsets.
        device: of `offset_conv`'s parameters.
        dtype: likewise.

    Shape:
        features (N, channels, H, W); score maps (N, K * group_size^2, H, W), of which channel
        (k * group_size + i) * group_size + j is that of output channel k and group cell (i, j); boxes (R, 5), image
        number, x1, y1, x2, y2 in pixels of the image, or a list with (L, 4) for each image; output
        (R, K, output_size, output_size).
    """

    def __init__(
        self,
        channels: int,
        classes: int = 1,
        output_size: int = 7,
        spatial_scale: float = 1.0,
        group_size: int | None = None,
        samples_per_bin: int = 4,
        gamma: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.classes = classes
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.group_size = output_size if group_size is None else group_size
        self.samples_per_bin = samples_per_bin
        self.gamma = gamma
        self.offset_conv = OffsetBranch(channels, 2 * classes * self.group_size**2, 1, device=device, dtype=dtype)

    def reset_offsets(self) -> None:
        """Make the module plain again: offsets zero."""
        zero(self.offset_conv)

    def offsets(self, features: Tensor, boxes: Boxes) -> Tensor:
        """Predict each bin's offset, for each class.

        Returns:
            (R, 2 * classes, output_size, output_size), x before y, as a fraction of the box's size before gamma.
        """
        maps = self.offset_conv(features)
        with autocast.off(maps.device.type):  # it would pool the maps in its own dtype
            return self._pool(maps, boxes, None)

    def forward(self, features: Tensor, score_maps: Tensor, boxes: Boxes) -> Tensor:
        """Pool the score maps at the bins' locations, which come from the features."""
        return self._pool(score_maps, boxes, self.offsets(features, boxes))

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.channels}, classes={self.classes}, output_size={self.output_size}, "
            f"spatial_scale={self.spatial_scale}, group_size={self.group_size}, "
            f"samples_per_bin={self.samples_per_bin}, gamma={self.gamma}"
        )

    def _pool(self, maps: Tensor, boxes: Boxes, offset: Tensor | None) -> Tensor:
        return deform_ps_roi_pool(
            maps,
            boxes,
            offset,
            self.output_size,
            self.spatial_scale,
            self.group_size,
            samples_per_bin=self.samples_per_bin,
            gamma=self.gamma,
        )
