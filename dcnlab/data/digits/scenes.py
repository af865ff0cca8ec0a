"""DigitScenes: scenes of the embedded handwritten digits, drawn when they are asked for.

A scene is a function of the split, its index, the seed and the geometry alone: the same in any batch, order or process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dcnlab.data.digits.geometry import Geometry
from dcnlab.data.digits.mnist_reader import SPLITS, read_digits
from dcnlab.data.digits.rendering import Drawing, draw
from dcnlab.data.folds import Fold
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


@dataclass(frozen=True)
class DigitPart:
    """Digits of one split of a cut.

    Args:
        fold: of the cut.
        inks: (D, 28, 28) uint8, see `read_digits`.
        digits: (D,) uint8, 0 to 9.
    """

    fold: Fold
    inks: NDArray[np.uint8]
    digits: NDArray[np.uint8]


class DigitScenes(Dataset[Scene]):
    """Digits under random rotation, scale, shear and smooth warps on a canvas, with pieces of other digits as clutter.

    Splits share no digit, clutter included. Scene i shows digit i modulo the split's size, wholly on the canvas;
    further digits lie in front of earlier ones and are left out where they find no room.

    Args:
        split: train (7,000 digits), val (1,000) or test (2,000).
        geometry: how digits are laid on the canvas.
        length: number of scenes, None is one a digit; more re-use the digits in other poses.
        digits: maximum number of digits in a scene.
        classes: class names in the order of their labels, of these digits alone; None takes all ten.
        seed: 0 and up; another seed gives other scenes of the same digits.
        part: of a cut of several splits' digits; its scenes are other ones in each fold. None takes the split's digits.
    """

    def __init__(
        self,
        split: str,
        geometry: Geometry | None = None,
        length: int | None = None,
        digits: int = 1,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        part: DigitPart | None = None,
    ) -> None:
        self.classes = list(CLASSES if classes is None else classes)
        for name in self.classes:
            if name not in CLASSES or self.classes.count(name) > 1:
                raise DataError(
                    f"classes of digit scenes are {', '.join(self.classes)}; takes each of 0 to 9 once at most"
                )
        inks, names = read_digits(split) if part is None else (part.inks, part.digits)
        self.split = split if part is None else f"{split} of fold {part.fold}"
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
        fold = () if part is None else (part.fold.number, part.fold.count)
        # The split is part of the key, so that scene i of two splits does not share its pose.
        self.key = int(np.random.SeedSequence([seed, SPLITS.index(split), *fold]).generate_state(1, np.uint64)[0])

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
