"""Batches of images and labels of different sizes, padded to the largest."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dcnlab.data.labels import IGNORE
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import MOST_PIXELS


def pad_collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack images and labels of different sizes, padded on the right and below: images with 0, labels with IGNORE.

    Args:
        items: N images (3, h, w) with labels (h, w).

    Returns:
        (N, 3, H, W) and (N, H, W); 0 is the mean colour of a normalised image.
    """
    images, labels = ([item[part] for item in items] for part in (0, 1))
    return _pad(images, 0), _pad(labels, IGNORE)


def _pad(tensors: Sequence[Tensor], value: int) -> Tensor:
    height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (-2, -1))
    if height * width > MOST_PIXELS:
        raise DataError(
            f"a batch of images of different sizes would be padded to {height} x {width} pixels each; allowed are "
            f"{MOST_PIXELS}; data.crop_size gives them one size"
        )
    batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), value)
    for place, tensor in zip(batch, tensors, strict=True):
        place[..., : tensor.shape[-2], : tensor.shape[-1]] = tensor
    return batch
