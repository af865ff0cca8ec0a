"""Boxes, LabelMap, Probabilities: a network's prediction for one image, which can draw itself."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from dcnlab.tasks.box_pictures import box_picture
from dcnlab.tasks.class_pictures import class_picture
from dcnlab.tasks.label_pictures import label_picture


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for one image."""

    name: str
    """The image's path, or `image N`."""
    image: Image.Image
    """In RGB."""
    classes: list[str]
    """All class names in the order of their labels; a detector's labels count from 1."""


@dataclass(frozen=True)
class Boxes(Prediction):
    """A detector's boxes, best first."""

    boxes: Tensor
    """(n, 4) float32: x1, y1, x2, y2 in the image's pixels."""
    labels: Tensor
    """(n,) int64, from 1."""
    scores: Tensor
    """(n,) float32, 0 to 1."""

    @property
    def names(self) -> list[str]:
        """The class of each box."""
        return [self.classes[label - 1] for label in self.labels.tolist()]

    def draw(self, min_score: float = 0.3) -> Image.Image:
        """The image with its boxes of at least a score."""
        return box_picture(self.image, self.boxes, self.labels, self.scores, self.classes, min_score)


@dataclass(frozen=True)
class LabelMap(Prediction):
    """The class of each pixel."""

    labels: Tensor
    """(H, W) uint8, the index of the class in `classes`."""

    def draw(self) -> Image.Image:
        """The image under the colours of its classes."""
        return label_picture(self.image, self.labels, self.classes)


@dataclass(frozen=True)
class Probabilities(Prediction):
    """How probable each class is."""

    probabilities: Tensor
    """(C,) float32; their sum is 1."""

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the best first."""
        values, labels = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]

    def draw(self) -> Image.Image:
        """The image with its most probable class."""
        return class_picture(self.image, *self.top(1)[0])
