"""DetectionDataModule: three splits of VOC, COCO or a data set laid out like one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dcnlab.data.detection.annotations import Annotations, join
from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.detection.voc import read_voc
from dcnlab.data.folds import Fold, all_names, interleaved, validated_on
from dcnlab.data.labels import check_same_classes, names_of
from dcnlab.data.module import SplitsDataModule, collate_lists, reader_of
from dcnlab.data.own.detection import joined, own_boxes
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD, NO_JITTER
from dcnlab.data.resize import longer_limits
from dcnlab.io.errors import DataError
from dcnlab.io.orientation import Orientation

Templates = Mapping[str, str | None]
"""Templates of paths: `annotations` and `images`."""


def _read_voc(
    root: str | Path,
    splits: Sequence[str],
    classes: Sequence[str] | None,
    templates: Templates,
    orientation: Orientation,
) -> Annotations:
    if any(templates.values()):
        raise DataError("data.images and data.annotations are for data.name coco; voc's folders have fixed names")
    return read_voc(root, splits, classes, orientation=orientation)


def _read_coco(
    root: str | Path,
    splits: Sequence[str],
    classes: Sequence[str] | None,
    templates: Templates,
    orientation: Orientation,
) -> Annotations:
    return read_coco(root, splits, classes, **templates)


READERS: dict[str, Callable[..., Annotations]] = {"voc": _read_voc, "coco": _read_coco}
"""Readers by `data.name`; each takes root, splits, classes, templates and orientation."""


class DetectionDataModule(SplitsDataModule):
    """Three splits of VOC, COCO or a folder laid out like one of them.

    Args:
        name: voc | coco | yolo, the form of the annotations | own, which looks for it.
        root: see `read_voc` and `read_coco`.
        train: split, or splits, that the network learns on: `train`, `[2007/trainval, 2012/trainval]`.
        val: scored during training; None scores none.
        test: scored at the end.
        classes: class names in the order of their labels; None takes the data set's own.
        images: coco: template of the images' folder.
        annotations: coco: template of the annotations' path.
        shorter_side: of the resized image, pixels; None keeps its own size.
        longer_side: limit on its longer side, pixels; None: no limit.
        flip: whether half of the training images are mirrored.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        batch_size: images a rank loads at a time.
        workers: loader processes.
        seed: of the training order and the augmentation.
        evaluation_batch_size: images at a time in evaluation; None is batch_size.
        test_sides: shorter sides that the test itself resizes its images to, which come at their own size then; None
            resizes them as the others.
        test_longer_sides: limit on the longer side at each of them; None: see `longer_limits`.
        exif: auto, apply or ignore: which images are turned as their EXIF orientation says, see `Orientation`.
        fold: the test split, cut from the images of all three; None takes the splits as they are.
        layout: own: that the folder must be of; None looks.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.

    Raises:
        DataError: files are missing or not right, or classes differ between splits; one line that says what and where.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        train: str | Sequence[str] = "train",
        val: str | Sequence[str] | None = "val",
        test: str | Sequence[str] = "test",
        classes: Sequence[str] | None = None,
        images: str | None = None,
        annotations: str | None = None,
        shorter_side: int | None = 600,
        longer_side: int | None = 1000,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
        evaluation_batch_size: int | None = None,
        test_sides: Sequence[int] | None = None,
        test_longer_sides: Sequence[int] | None = None,
        exif: str = "auto",
        fold: Fold | None = None,
        layout: str | None = None,
        color_jitter: Sequence[float] = NO_JITTER,
    ) -> None:
        orientation = Orientation(exif)
        is_own = name in ("own", "yolo")  # yolo is the layout of that name, not looked for
        own = own_boxes(root, classes, layout if name == "own" else name, exif, name) if is_own else None
        reader = reader_of(name, READERS, "boxes") if own is None else None
        templates = {"annotations": annotations, "images": images}

        @cache  # VOC's customary validation split is its test split: read once
        def read(splits: tuple[str, ...]) -> Annotations:
            if reader is None:
                assert own is not None
                return joined(own, splits)
            return reader(root, splits, classes, templates, orientation)

        def split(chosen: Annotations, augment: bool = False, tested_at: Sequence[int] | None = None) -> DetectionSplit:
            sides = (shorter_side, longer_side) if tested_at is None else (None, None)
            limits = longer_limits(tested_at or (), test_longer_sides, shorter_side, longer_side)
            return DetectionSplit(
                chosen, *sides, flip, mean, std, augment, seed, orientation, tested_at, limits, color_jitter
            )

        if fold is None:
            learnt, validated, tested = (
                None if splits is None else read(tuple(names_of(splits))) for splits in (train, val, test)
            )
        else:
            named = [((name,), read((name,))) for name in all_names(train, val, test)]
            learnt, validated, tested = _cut(root, named, fold, validated_on(val, test))
        assert learnt is not None
        assert tested is not None
        training, testing = split(learnt, augment=True), split(tested, tested_at=test_sides)
        validation = None if validated is None else split(validated)
        others = [(splits, part.classes) for splits, part in ((val, validation), (test, testing)) if part is not None]
        check_same_classes(root, (train, training.classes), *others)
        super().__init__(
            training,
            validation,
            testing,
            training.classes,
            batch_size,
            workers,
            seed,
            collate_lists,
            evaluation_batch_size,
        )
        self.own = own


def _cut(
    root: str | Path, splits: Sequence[tuple[object, Annotations]], fold: Fold, validated: str | None
) -> list[Annotations | None]:
    """Cut the images of some splits, each once, into train, val and test; dealt out in the order of their names."""
    check_same_classes(root, *((name, part.classes) for name, part in splits))
    whole = join([part for _, part in splits])
    first = {file: at for at, file in reversed(list(enumerate(whole.files.tolist())))}
    order = np.array([first[file] for file in sorted(first, key=lambda file: (Path(file).name, file))], np.intp)
    parts = fold.parts(order, interleaved, validated)
    return [None if chosen is None else whole.select(order[chosen]) for chosen in (parts.train, parts.val, parts.test)]
