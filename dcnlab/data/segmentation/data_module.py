"""SegmentationDataModule: three splits of a data set with a label for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dcnlab.data.folds import Fold, all_names, blocks, validated_on
from dcnlab.data.image_list import imagelist_pairs
from dcnlab.data.labels import LabelledImages
from dcnlab.data.module import SplitsDataModule, reader_of
from dcnlab.data.own.segmentation import joined, own_labels
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD, NO_JITTER
from dcnlab.data.segmentation.camvid import camvid_pairs
from dcnlab.data.segmentation.cityscapes import cityscapes_pairs
from dcnlab.data.segmentation.padding import pad_collate
from dcnlab.data.segmentation.split import SegmentationSplit
from dcnlab.data.segmentation.voc import voc_pairs
from dcnlab.io.orientation import Orientation

READERS: dict[str, Callable[..., LabelledImages]] = {
    "voc": voc_pairs,
    "cityscapes": cityscapes_pairs,
    "camvid": camvid_pairs,
    "imagelist": imagelist_pairs,
}
"""By `data.name`: takes root, splits, classes and the ignored value."""


class SegmentationDataModule(SplitsDataModule):
    """Three splits of a data set with a label for each pixel; evaluation gives one image at a time.

    Args:
        name: voc, cityscapes, camvid, imagelist, or own, which looks for
            the layout; each reader's file says what it expects in root.
        root: folder of the data set.
        train: split, or splits, to learn on.
        val: split, or splits, scored during training; None scores none.
        test: split, or splits, scored at the end.
        classes: class names; None takes the data set's own. voc, imagelist: in the order of the label values.
            cityscapes, camvid: which of their classes, in the order of their labels, the others being ignored.
        ignore: label value of pixels to leave out; None is the data set's own.
        shorter_side: of the resized images, pixels; None keeps their own sizes.
        random_scale: training: smallest and largest factor on that; None draws none.
        crop_size: training: height and width of the random crop, pixels; None takes whole images.
        flip: training: whether half of the images are mirrored.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        batch_size: training images a rank loads at a time.
        workers: loader processes.
        seed: of the training order and the augmentation.
        exif: auto, apply or ignore: which images are turned as their EXIF orientation says, see `Orientation`.
        test_scale: the largest factor of those that the test resizes its images by.
        fold: the test split, cut from the images of all three; None takes the splits as they are.
        layout: own: that the folder must be of; None looks.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.

    Raises:
        DataError: data are missing or not right; one line that says what is expected where.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        train: str | Sequence[str] = "train",
        val: str | Sequence[str] | None = "val",
        test: str | Sequence[str] = "test",
        classes: Sequence[str] | None = None,
        ignore: int | None = None,
        shorter_side: int | None = None,
        random_scale: tuple[float, float] | None = None,
        crop_size: tuple[int, int] | None = None,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        exif: str = "auto",
        test_scale: float = 1.0,
        fold: Fold | None = None,
        layout: str | None = None,
        color_jitter: Sequence[float] = NO_JITTER,
    ) -> None:
        orientation = Orientation(exif)
        own = own_labels(root, classes, ignore, layout) if name == "own" else None
        reader = reader_of(name, READERS, "label for each pixel") if own is None else None

        def read(names: str | Sequence[str]) -> LabelledImages:
            if reader is None:
                assert own is not None
                return joined(own, names)
            return reader(root, names, classes, ignore)

        def split(images: LabelledImages, augment: bool = False, scale: float = 1.0) -> SegmentationSplit:
            return SegmentationSplit(
                images.pairs,
                images.classes,
                images.lookup,
                shorter_side=shorter_side,
                random_scale=random_scale,
                crop_size=crop_size,
                flip=flip,
                mean=mean,
                std=std,
                augment=augment,
                seed=seed,
                read=images.read,
                orientation=orientation,
                test_scale=scale,
                color_jitter=color_jitter,
            )

        if fold is None:
            learnt, validated, tested = (None if names is None else read(names) for names in (train, val, test))
        else:
            images = read(all_names(train, val, test))
            learnt, validated, tested = _cut(images, fold, validated_on(val, test))
        assert learnt is not None
        assert tested is not None
        training = split(learnt, augment=True)
        validation = None if validated is None else split(validated)
        testing = split(tested, scale=test_scale)
        super().__init__(training, validation, testing, training.classes, batch_size, workers, seed, pad_collate, 1)
        self.own = own


def _cut(images: LabelledImages, fold: Fold, validated: str | None) -> list[LabelledImages | None]:
    """Cut images into train, val and test: blocks of neighbours in the order of their names, then of their folders."""
    pairs = sorted(images.pairs, key=lambda pair: (pair[0].name, str(pair[0])))
    parts = fold.parts(np.zeros(len(pairs), np.int64), blocks, validated)
    return [
        None if chosen is None else replace(images, pairs=[pairs[at] for at in chosen])
        for chosen in (parts.train, parts.val, parts.test)
    ]
