"""Digit scenes as data sets of the three tasks: classification, segmentation and detection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcnlab.data.detection.annotations import Annotations, BoxesWithScores, results, starts
from dcnlab.data.digits.rendering import Drawing
from dcnlab.data.digits.scenes import MEAN, STD, DigitScenes
from dcnlab.data.photographs import strings
from dcnlab.io.errors import DataError

Item = TypeVar("Item", covariant=True)


class SceneItems(ABC, Dataset[Item]):
    """Items by index, or by pair (epoch, index), which shows the scene's digits in a new pose in every epoch."""

    def __init__(self, scenes: DigitScenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        if not 0 <= (index if isinstance(index, int) else index[1]) < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def image_name(self, index: int) -> str:
        """Name of a scene: its split, or parts of it, and its index."""
        return f"{self.scenes.split}/{index}"

    @abstractmethod
    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[Item]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""

    def scene_numbers(self, indices: Sequence[int | tuple[int, int]]) -> list[int]:
        """Numbers of the scenes: those of epoch n follow all of the epochs before."""
        return [index if isinstance(index, int) else index[0] * len(self) + index[1] for index in indices]

    def draw(self, numbers: Sequence[int]) -> tuple[Tensor, Drawing]:
        """Draw scenes: images (B, 3, S, S) float32, standardised, and the drawing that they are made of."""
        drawing = self.scenes.draw(numbers)
        images = torch.from_numpy(drawing.images).float().sub_(255 * MEAN).div_(255 * STD)
        return images.unsqueeze(1).expand(-1, 3, -1, -1), drawing


class DigitClassification(SceneItems[tuple[Tensor, int]]):
    """Scenes of one digit as (image, label): (3, S, S) float32, standardised, and the digit's class."""

    def __init__(self, scenes: DigitScenes) -> None:
        if scenes.digits != 1:
            raise DataError(f"classification takes scenes of one digit, not of up to {scenes.digits}")
        super().__init__(scenes)

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        chosen = self.scene_numbers(indices)
        images, _ = self.draw(chosen)
        # From the digit, not the drawing: a digit so small that its ink leaves no mask is still that digit.
        digits = self.scenes.digit_labels
        labels = digits[np.asarray(chosen) % len(digits)].tolist()
        return list(zip(images, labels, strict=True))


class DigitSegmentation(SceneItems[tuple[Tensor, Tensor]]):
    """Scenes as (image, label): (3, S, S) float32, standardised, and (S, S) int64, 0 background, else the class + 1."""

    def __init__(self, scenes: DigitScenes) -> None:
        super().__init__(scenes)
        self.classes = ["background", *scenes.classes]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        images, drawing = self.draw(self.scene_numbers(indices))
        # Owner k of a pixel is the scene's k-th digit, 0 is none.
        label_of_owner = np.pad(drawing.labels + 1, ((0, 0), (1, 0)))
        labels = torch.from_numpy(label_of_owner[np.arange(len(images))[:, None, None], drawing.owners])
        return list(zip(images, labels, strict=True))


class DigitDetection(SceneItems[tuple[Tensor, dict[str, Any]]]):
    """Scenes as (image, target): (3, S, S) float32, standardised, and the boxes of the visible digits.

    The target holds `boxes` (n, 4) float32, x1, y1, x2, y2, pixels; `labels` (n,) int64, the class + 1; `image_id`, the
    index; `size`, height and width. A scene whose ink is too faint for a mask has no box.
    """

    def __init__(self, scenes: DigitScenes) -> None:
        super().__init__(scenes)
        self.classes = scenes.classes

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, dict[str, Any]]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        numbers = self.scene_numbers(indices)
        images, drawing = self.draw(numbers)
        items = []
        for image, number, labels, boxes in zip(images, numbers, drawing.labels, drawing.boxes, strict=True):
            seen = labels >= 0
            target = {
                "boxes": torch.from_numpy(boxes[seen]),
                "labels": torch.from_numpy(labels[seen] + 1),
                "image_id": number % len(self),
                "size": tuple(image.shape[1:]),
            }
            items.append((image, target))
        return items

    def own_names(self, detections: BoxesWithScores) -> list[dict[str, Any]]:
        """Detections in COCO's result form: `image_id` is the scene's index, `category_id` the digit's label."""
        return results(detections, range(len(self)), "category_id", range(1, len(self.classes) + 1))

    @property
    def ground_truth(self) -> Annotations:
        """All boxes; drawn anew at each call."""
        drawing = self.scenes.draw(range(len(self)))
        seen = drawing.labels >= 0
        boxes = drawing.boxes[seen].astype(np.float64)
        return Annotations(
            root=Path(),
            classes=tuple(self.classes),
            files=strings([f"scene {index}" for index in range(len(self))]),
            image_ids=np.arange(len(self)),
            sizes=np.full((len(self), 2), self.scenes.geometry.image_size),
            offsets=starts(seen.sum(1)),
            boxes=boxes,
            labels=drawing.labels[seen] + 1,
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
            difficult=np.zeros(len(boxes), np.bool_),
            crowd=np.zeros(len(boxes), np.bool_),
            category_ids=np.arange(1, len(self.classes) + 1),
        )
