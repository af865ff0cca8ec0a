"""Images of several sizes as one batch: zeros at the right and at the bottom."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from dcnlab.io.errors import ConfigError
from dcnlab.io.image_file import MOST_PIXELS


def pad_images(images: Sequence[Tensor], multiple: int) -> ImageList:
    """Put images into one tensor whose sides are multiples of the network's stride.

    Args:
        images: (3, h, w) each, of any sizes, at least one.
        multiple: largest stride of the network, in pixels.

    Returns:
        torchvision's ImageList: `tensors` (N, 3, H, W), zero beyond each image, and `image_sizes`, the true (h, w).

    Raises:
        ConfigError: a tall and a wide image together would take more pixels than an image may have.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    if len(images) > 1 and height * width > MOST_PIXELS:
        raise ConfigError(
            f"a batch of images of different sizes would be padded to {height} x {width} pixels each; allowed are "
            f"{MOST_PIXELS}; data.longer_side limits them, and data.batch_size=1 pads none"
        )
    tensors = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for row, image, (h, w) in zip(tensors, images, sizes, strict=True):
        row[:, :h, :w] = image
    return ImageList(tensors, sizes)


def numbers_by_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Group the numbers of images that have the same height and width.

    Each group makes a batch in which nothing depends on the other images, so detections are the same however images
    were batched, on one GPU or eight: padding beyond the stride would reach into a network through its biases.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(tuple(image.shape[-2:]), []).append(number)
    return list(groups.values())
