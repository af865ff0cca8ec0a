"""The embedded data set: scenes of handwritten digits, made on the fly.

A scene is a function of the split, its index, the seed and the geometry alone: the same in any batch, order or process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcnlab.data.detection.annotations import Annotations, BoxesWithScores, results, starts
from dcnlab.data.digits.mnist_reader import SPLITS, read_digits
from dcnlab.data.digits.rendering import Drawing, Geometry, draw
from dcnlab.data.photographs import strings
from dcnlab.io.errors import DataError

CLASSES = tuple("0123456789")
"""Class names in the order of their labels."""

MEAN, STD = 0.1, 0.24
"""Of the brightness of scenes of one digit in the default geometry, in [0, 1]."""


@dataclass(frozen=True)
class Scene:
    """One picture of D >= 1 digits, with what each task trains on.

    ====== ========= ======= ==================================================================
    name   shape     dtype   meaning
    ====== ========= ======= ==================================================================
    image  (3, S, S) float32 brightness in [0, 1], the same in the three channels
    labels (D,)      int64   classes
    boxes  (D, 4)    float32 x1, y1, x2, y2, pixels, tight around the mask
    masks  (D, S, S) bool    the visible ink; masks of one scene share no pixel
    ====== ========= ======= ==================================================================
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


class DigitScenes(Dataset[Scene]):
    """Digits under random rotation, scale, shear and smooth warps on a canvas, with pieces of other digits as clutter.

    Splits share no digit, clutter included. Scene i shows digit i modulo the split's size, wholly on the canvas;
    further digits lie in front of earlier ones and are left out where they find no room.

    Args:
        split: train (7,000 digits), val (1,000) or test (2,000).
        geometry: how digits are laid on the canvas.
        length: number of scenes, None is one a digit; more re-use the digits in other poses.
        digits: the most digits in a scene.
        classes: class names in the order of their labels, of these digits alone; None takes all ten.
        seed: 0 and up; another seed gives other scenes of the same digits.
    """

    def __init__(
        self,
        split: str,
        geometry: Geometry | None = None,
        length: int | None = None,
        digits: int = 1,
        classes: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.classes = list(CLASSES if classes is None else classes)
        for name in self.classes:
            if name not in CLASSES or self.classes.count(name) > 1:
                raise DataError(
                    f"classes of digit scenes are {', '.join(self.classes)}; takes each of 0 to 9 once at most"
                )
        inks, names = read_digits(split)
        label_of = np.array([self.classes.index(name) if name in self.classes else -1 for name in CLASSES])
        chosen = label_of[names] >= 0
        self.inks, self.digit_labels = inks[chosen], label_of[names][chosen]
        self.length = len(self.inks) if length is None else length
        if self.length < 1:
            raise DataError(f"length of digit scenes is {length}, should be at least 1 or null for one scene a digit")
        if not 1 <= digits <= 255:
            raise DataError(f"digits in a scene is {digits}, should be from 1 to 255")
        self.geometry = geometry or Geometry()
        self.digits = digits
        # The split is part of the key, so that scene i of two splits does not share its pose.
        self.key = int(np.random.SeedSequence([seed, SPLITS.index(split)]).generate_state(1, np.uint64)[0])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Scene]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        drawing = self.draw(indices)
        images = torch.from_numpy(drawing.images).float().div_(255)
        scenes = []
        for image, owner, labels, boxes in zip(images, drawing.owners, drawing.labels, drawing.boxes, strict=True):
            seen = np.flatnonzero(labels >= 0)
            scenes.append(
                Scene(
                    image.expand(3, -1, -1),
                    torch.from_numpy(labels[seen]),
                    torch.from_numpy(boxes[seen]),
                    torch.from_numpy(owner == seen[:, None, None] + 1),
                )
            )
        return scenes

    def draw(self, indices: Sequence[int]) -> Drawing:
        """Draw scenes as arrays; indices past the length are further poses of the same digits."""
        return draw(np.asarray(indices, np.int64), self.key, self.inks, self.digit_labels, self.digits, self.geometry)


class DigitClassification(Dataset[tuple[Tensor, int]]):
    """Scenes of one digit as (image, label): (3, S, S) float32, standardised, and the digit's class.

    Besides an index it takes a pair (n, index): the index's scene in the n-th pass, a new pose in every epoch.
    """

    def __init__(self, scenes: DigitScenes) -> None:
        if scenes.digits != 1:
            raise DataError(f"classification takes scenes of one digit, not of up to {scenes.digits}")
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, int]:
        if not 0 <= (index if isinstance(index, int) else index[1]) < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        chosen = [i if isinstance(i, int) else i[0] * len(self) + i[1] for i in indices]
        images = torch.from_numpy(self.scenes.draw(chosen).images).float().sub_(255 * MEAN).div_(255 * STD)
        # From the digit, not the drawing: a digit so small that its ink leaves no mask is still that digit.
        digits = self.scenes.digit_labels
        labels = digits[np.asarray(chosen) % len(digits)].tolist()
        return list(zip(images.unsqueeze(1).expand(-1, 3, -1, -1), labels, strict=True))


class DigitSegmentation(Dataset[tuple[Tensor, Tensor]]):
    """Scenes as (image, label): (3, S, S) float32, standardised, and (S, S) int64, 0 background, else the class + 1.

    Besides an index it takes a pair (n, index): the index's scene in the n-th pass, a new one in every epoch.
    """

    def __init__(self, scenes: DigitScenes) -> None:
        self.scenes = scenes
        self.classes = ["background", *scenes.classes]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        if not 0 <= (index if isinstance(index, int) else index[1]) < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        chosen = [i if isinstance(i, int) else i[0] * len(self) + i[1] for i in indices]
        drawing = self.scenes.draw(chosen)
        images = torch.from_numpy(drawing.images).float().sub_(255 * MEAN).div_(255 * STD)
        # Owner k of a pixel is the scene's k-th digit, 0 is none.
        label_of_owner = np.pad(drawing.labels + 1, ((0, 0), (1, 0)))
        labels = torch.from_numpy(label_of_owner[np.arange(len(chosen))[:, None, None], drawing.owners])
        return list(zip(images.unsqueeze(1).expand(-1, 3, -1, -1), labels, strict=True))


class DigitDetection(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Scenes as (image, target): (3, S, S) float32, standardised, and the boxes of the digits that can be seen.

    The target holds `boxes` (n, 4) float32, x1, y1, x2, y2, pixels; `labels` (n,) int64, the class + 1; `image_id`, the
    index; `size`, height and width. A scene whose ink is too faint for a mask has no box.

    Besides an index it takes a pair (n, index): the index's scene in the n-th pass, a new one in every epoch.
    """

    def __init__(self, scenes: DigitScenes) -> None:
        self.scenes, self.classes = scenes, scenes.classes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, dict[str, Any]]:
        if not 0 <= (index if isinstance(index, int) else index[1]) < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[tuple[Tensor, dict[str, Any]]]:
        """Draw a batch of scenes, as torch's DataLoader asks for them."""
        pairs = [(0, i) if isinstance(i, int) else i for i in indices]
        drawing = self.scenes.draw([turn * len(self) + index for turn, index in pairs])
        images = torch.from_numpy(drawing.images).float().sub_(255 * MEAN).div_(255 * STD)
        items = []
        for image, (_, index), labels, boxes in zip(images, pairs, drawing.labels, drawing.boxes, strict=True):
            seen = labels >= 0
            target = {
                "boxes": torch.from_numpy(boxes[seen]),
                "labels": torch.from_numpy(labels[seen] + 1),
                "image_id": index,
                "size": tuple(image.shape),
            }
            items.append((image.expand(3, -1, -1), target))
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
