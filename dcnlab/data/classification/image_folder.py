"""ImageFolderSplit: a data set laid out as root/SPLIT/CLASS/IMAGE, as torchvision's ImageFolder reads it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from dcnlab.data.classification.class_files import class_folders, held_or_kept, labelled_files, split_folder
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD, NO_JITTER, PhotographSplit, colour_jitter, strings
from dcnlab.data.resize import resized
from dcnlab.io.image_file import read_image
from dcnlab.io.orientation import Orientation


def training_transform(
    image_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    color_jitter: Sequence[float] = NO_JITTER,
) -> v2.Transform:
    """Random crop, 8 to 100% of the area, aspect 3/4 to 4/3, to image_size squared; flip; colours; mean and std."""
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            *colour_jitter(color_jitter),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def evaluation_transform(
    image_size: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> v2.Transform:
    """Shorter side to 8/7 of image_size, centre crop, normalisation: 256 and 224 for the usual 224."""
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(_resized_side(image_size), antialias=True),
            v2.CenterCrop(image_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def _resized_side(image_size: int) -> int:
    return round(image_size * 8 / 7)


class ImageFolderSplit(PhotographSplit[tuple[Tensor, int]]):
    """One split of an image folder as (image, label): (3, image_size, image_size) float32, normalised, and the class.

    Args:
        root: folder of the split folders.
        split: its folder; or None, which holds every tenth image of each class (by name) out of `train`'s folder.
        train: folder of the training split.
        classes: class folders in the order of their labels; None takes all, by name.
        image_size: height and width of the images given, pixels.
        holdout: whether those tenth images are missing from this split because validation has them.
        augment: whether to crop and flip at random.
        seed: of the augmentation.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.
        orientation: says which images are turned as their EXIF orientation says; None leaves all as stored, as
            torchvision's ImageFolder does, with a warning at the first that has one.
        listed: files with their labels, and the classes, in place of those of the folder.

    Raises:
        DataError: a folder is missing or empty, a class is unknown, or a file is a pipe or the like; one line that
            says what was expected where. On taking an item: the image is broken, or too large.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None,
        train: str = "train",
        classes: Sequence[str] | None = None,
        image_size: int = 224,
        holdout: bool = False,
        augment: bool = False,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        color_jitter: Sequence[float] = NO_JITTER,
        orientation: Orientation | None = None,
        listed: tuple[Sequence[tuple[str, int]], Sequence[str]] | None = None,
    ) -> None:
        super().__init__(augment, seed)
        self.orientation = orientation or Orientation(upright=False)
        if listed is not None:
            samples, self.classes = list(listed[0]), list(listed[1])
        else:
            folder = split_folder(Path(root), train if split is None else split)
            self.classes = class_folders(folder, classes)
            samples = labelled_files(folder, self.classes)
            if split is None or holdout:
                samples = held_or_kept(folder, samples, held=split is None)
        self.files, self.labels = strings([path for path, _ in samples]), np.array([label for _, label in samples])
        transform = training_transform(image_size, mean, std, color_jitter) if augment else None
        self.transform = transform or evaluation_transform(image_size, mean, std)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.files)

    @property
    def samples(self) -> list[tuple[str, int]]:
        """Files and labels; built anew at each call."""
        return list(zip(self.files.tolist(), self.labels.tolist(), strict=True))

    def path(self, index: int) -> str:
        """Path of an image."""
        return str(self.files[index])

    def item(self, index: int, randomness: AbstractContextManager[None]) -> tuple[Tensor, int]:
        """Read and transform an image."""
        image = read_image(self.path(index), self.orientation, made=None if self.augment else self.made)
        with randomness:
            return self.transform(image), int(self.labels[index])

    def made(self, height: int, width: int) -> tuple[int, int, str]:
        """What the resizing of evaluation makes of an image, before it is cropped; see `image_file.Made`."""
        side = _resized_side(self.image_size)
        return *resized(height, width, side, None), f"data.image_size {self.image_size}"
