"""Splits of a data set from outside: a torch Dataset under the keys and the names that our runs use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from dcnlab.data.detection.annotations import BoxesWithScores, results
from dcnlab.data.module import SplitsDataModule, collate_lists
from dcnlab.data.segmentation.padding import pad_collate
from dcnlab.io.errors import DataError


class OutsideSplit(Dataset[Any]):
    """A split of a data set from outside.

    Takes an index or a pair (n, index), and passes the index on: the data set draws its augmentation itself.

    Args:
        dataset: gives pairs of an image (3, H, W) float32, normalised, and a target: a label; a label map (H, W)
            int64, 255 where it is not known; or a dict of `boxes` (n, 4), pixels, and `labels` (n,) 1..C.
        task: classification, segmentation or detection.
        name: of the data set's class, for messages.
    """

    def __init__(self, dataset: Any, task: str, name: str) -> None:
        for needed in ("__len__", "__getitem__", "classes"):
            if not hasattr(dataset, needed):
                raise DataError(f"data.name is {name!r}, whose data set has no {needed}")
        self.dataset, self.task, self.name = dataset, task, name
        self.classes = [str(label) for label in dataset.classes]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, Any]:
        index = key if isinstance(key, int) else key[1]
        item = self.dataset[index]
        if not (isinstance(item, Sequence) and len(item) == 2):
            raise DataError(f"data.name is {self.name!r}, whose item {index} is not a pair of an image and a label")
        image, label = item
        if not (isinstance(image, torch.Tensor) and image.dim() == 3 and image.shape[0] == 3):
            shape = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            raise DataError(
                f"data.name is {self.name!r}, whose image {index} is {shape}; it must be a tensor (3, H, W)"
            )
        if self.task != "detection":
            return image, label
        if not (isinstance(label, Mapping) and {"boxes", "labels"} <= set(label)):
            raise DataError(f"data.name is {self.name!r}, whose target {index} is not a dict of boxes and labels")
        return image, {"size": tuple(image.shape[-2:]), **label, "image_id": index}

    def own_names(self, detections: BoxesWithScores) -> list[dict[str, Any]]:
        """Detections in COCO's result form: `image_id` is the image's position, `category_id` the label."""
        return results(detections, range(len(self)), "category_id", range(1, len(self.classes) + 1))


def outside_data_module(
    make: Any, name: str, data: Any, task: str, batch_size: int, workers: int, seed: int
) -> SplitsDataModule:
    """The data module over three splits of a data set from outside.

    Args:
        make: called as `Class(split, data)` for each split that `data` names.
        name: of the class, for messages.
        data: `data` of the config.
        task: classification, segmentation or detection.
        batch_size: images a rank loads at a time.
        workers: loader processes.
        seed: of the training order.

    Raises:
        DataError: it is not such a data set, or its splits differ in their classes.
    """

    def split(names: str | list[str]) -> OutsideSplit:
        return OutsideSplit(make(names, data), task, name)

    train, test = split(data.train), split(data.test)
    val = None if data.val is None else split(data.val)
    for other in (test, val):
        if other is not None and other.classes != train.classes:
            raise DataError(f"data.name is {name!r}, whose splits have other classes: {other.classes}, {train.classes}")
    collate = {"detection": collate_lists, "segmentation": pad_collate}.get(task)
    evaluated = 1 if task == "segmentation" else None
    return SplitsDataModule(train, val, test, train.classes, batch_size, workers, seed, collate, evaluated)
