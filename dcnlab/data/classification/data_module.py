"""ImageFolderDataModule: three splits of images that lie in one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.folds import Fold, stratified, validated_on
from dcnlab.data.labels import check_same_classes
from dcnlab.data.module import SplitsDataModule
from dcnlab.data.own.classification import own_class_folders
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD, NO_JITTER, strings
from dcnlab.io.orientation import Orientation


class ImageFolderDataModule(SplitsDataModule):
    """Any folder laid out as root/SPLIT/CLASS/IMAGE, or with `own` as root/CLASS/IMAGE.

    Args:
        root: folder of the split folders.
        train: folder of the training images.
        val: folder of the validation images; None holds every tenth image of each class out of the training folder.
        test: folder of the test images.
        classes: class folders in the order of their labels; None takes the training folder's, by name.
        image_size: height and width of the network's input, pixels.
        batch_size: images a rank loads at a time.
        workers: loader processes.
        seed: of the training order and the augmentation.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        exif: auto and ignore take images as stored, as torchvision's ImageFolder does; auto warns at the first image
            that has an EXIF orientation; apply rotates them upright.
        fold: the test split, cut from the images of all three; None takes the splits as they are.
        own: whether the folder is of any layout, which is looked for: SPLIT/CLASS/IMAGE or CLASS/IMAGE.
        layout: that it must be of; None takes any.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.

    Raises:
        DataError: a folder is missing or empty, or classes differ between splits; one line that says what and where.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str | None = None,
        test: str = "test",
        classes: Sequence[str] | None = None,
        image_size: int = 224,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        exif: str = "auto",
        fold: Fold | None = None,
        own: bool = False,
        layout: str | None = None,
        color_jitter: Sequence[float] = NO_JITTER,
    ) -> None:
        common: dict[str, Any] = {"classes": classes, "image_size": image_size, "mean": mean, "std": std}
        common["orientation"] = Orientation(exif, upright=False)
        folders = own_class_folders(root, classes, layout) if own else None

        def listed(split: str) -> dict[str, Any]:
            return {} if folders is None else {"listed": folders.split(split)}

        holdout = val is None and fold is None and folders is None
        validated = val if fold is None else val or train
        if folders is not None:
            validated = val or "val"
        training = ImageFolderSplit(
            root, train, holdout=holdout, augment=True, seed=seed, color_jitter=color_jitter, **listed(train), **common
        )
        validation = ImageFolderSplit(root, validated, train, **listed(validated or ""), **common)
        testing = ImageFolderSplit(root, test, **listed(test), **common)
        others = ((val, validation.classes), (test, testing.classes))
        check_same_classes(root, (train, training.classes), *others)
        if fold is not None:
            _cut((training, validation, testing), fold, validated_on(val, test) or "rest")
        super().__init__(training, validation, testing, training.classes, batch_size, workers, seed)
        self.own = folders


def _cut(splits: Sequence[ImageFolderSplit], fold: Fold, validated: str) -> None:
    """Give train, val and test the images of all three, cut class by class in the order of their paths."""
    label_of = {file: label for split in splits for file, label in split.samples}
    files = sorted(label_of)
    labels = np.array([label_of[file] for file in files])
    parts = fold.parts(labels, stratified, validated)
    for split, chosen in zip(splits, (parts.train, parts.val, parts.test), strict=True):
        assert chosen is not None
        split.files, split.labels = strings([files[at] for at in chosen]), labels[chosen]
