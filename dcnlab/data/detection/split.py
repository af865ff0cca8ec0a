"""DetectionSplit: images with labelled boxes, resized, augmented and normalised."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dcnlab.data.census import Census
from dcnlab.data.detection.annotations import Annotations, BoxesWithScores, starts
from dcnlab.data.photographs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_JITTER,
    PhotographSplit,
    colour_jitter,
    flip_and_normalise,
)
from dcnlab.data.resize import resized
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import Made, read_image
from dcnlab.io.orientation import Orientation

Target = dict[str, Any]
"""Of one image: `boxes` (n, 4) float32, `labels` (n,) int64, `image_id` int, `size` (height, width) of the original."""


class LimitSides(v2.Transform):
    """Resize image and boxes together: the shorter side to its length, unless the longer would pass its limit."""

    def __init__(self, shorter_side: int | None, longer_side: int | None) -> None:
        super().__init__()
        self.shorter_side, self.longer_side = shorter_side, longer_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Take the size from the image."""
        height, width = F.get_size(flat_inputs[0])
        return {"size": list(resized(height, width, self.shorter_side, self.longer_side))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one of them."""
        return F.resize(inpt, params["size"], antialias=True)


class DetectionSplit(PhotographSplit[tuple[Tensor, Target]]):
    """Images with the boxes that train a detector: no difficult ones, no crowds, cut to the image.

    An item is the image (3, h, w) float32, resized and normalised, and its target: `boxes` (n, 4) float32, x1, y1, x2,
    y2 in the resized image's pixels, continuous, from 0; `labels` (n,) int64 from 1, 0 is the background; `image_id`,
    the index; `size`, height and width of the original. An image may have no box.

    Args:
        annotations: of the split.
        shorter_side: of the resized image, pixels; None keeps its own size.
        longer_side: limit on its longer side, pixels; None: no limit.
        flip: training: whether half of the images are mirrored.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        augment: whether this is the training split.
        seed: of the augmentation.
        orientation: says which images are turned as their EXIF orientation says; None is `auto`.
        test_sides: shorter sides that a test resizes these images to later; None resizes them no more.
        test_longer_sides: limit on the longer side at each of them; None: no limits.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.

    Raises:
        DataError: on taking an item: the image is broken, too large to be decoded or resized safely, or not of the
            size that the annotations state; one line that names the file.
    """

    def __init__(
        self,
        annotations: Annotations,
        shorter_side: int | None = 600,
        longer_side: int | None = 1000,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        augment: bool = False,
        seed: int = 0,
        orientation: Orientation | None = None,
        test_sides: Sequence[int] | None = None,
        test_longer_sides: Sequence[int | None] | None = None,
        color_jitter: Sequence[float] = NO_JITTER,
    ) -> None:
        for name, value in (("shorter_side", shorter_side), ("longer_side", longer_side)):
            if value is not None and value < 1:
                raise DataError(f"data.{name} is {value}, should be at least 1 pixel")
        super().__init__(augment, seed)
        self.annotations, self.classes = annotations, list(annotations.classes)
        self.orientation = orientation or Orientation()
        shorter = test_sides or ()
        tested: list[tuple[int | None, int | None]] = list(
            zip(shorter, test_longer_sides or [None] * len(shorter), strict=bool(shorter))
        )
        self.sides = tested or [(shorter_side, longer_side)]
        self.sides_are = "test.shorter_sides" if test_sides else "data.shorter_side"
        boxes, chosen = annotations.trainable()
        self.boxes, self.labels = boxes[chosen].astype(np.float32), annotations.labels[chosen]
        self.offsets = starts(chosen.astype(np.int64))[annotations.offsets]
        empty = int((~chosen & ~annotations.difficult & ~annotations.crowd).sum())
        if empty and augment:
            warnings.warn(
                f"{empty} of {len(chosen)} boxes of {annotations.root} have no area inside their image "
                "and are left out of training",
                stacklevel=2,
            )
        limit = LimitSides(shorter_side, longer_side)
        colours = colour_jitter(color_jitter if augment else NO_JITTER)
        self.transform = v2.Compose([limit, *colours, *flip_and_normalise(augment and flip, mean, std)])

    def __len__(self) -> int:
        return len(self.annotations)

    def path(self, index: int) -> str:
        """Path of an image."""
        return str(self.annotations.root / str(self.annotations.files[index]))

    def item(self, index: int, randomness: AbstractContextManager[None]) -> tuple[Tensor, Target]:
        """Read and transform an image with its boxes."""
        height, width = self.annotations.sizes[index].tolist()
        image = read_photograph(Path(self.path(index)), height, width, self.orientation, self.made)
        of_image = slice(*self.offsets[index : index + 2])
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(self.boxes[of_image].copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(height, width),
        )
        pixels = tv_tensors.Image(F.pil_to_tensor(image))
        with randomness:
            pixels, boxes = self.transform(pixels, boxes)
        target = {
            "boxes": boxes.as_subclass(Tensor),
            "labels": torch.from_numpy(self.labels[of_image].copy()),
            "image_id": index,
            "size": (height, width),
        }
        return pixels.as_subclass(Tensor), target

    def made(self, height: int, width: int) -> tuple[int, int, str]:
        """The largest that resizing makes of an image, in a later test too; see `image_file.Made`."""
        sizes = [(*resized(height, width, *sides), f"{self.sides_are} {sides[0]}") for sides in self.sides]
        return max(sizes, key=lambda size: size[0] * size[1])

    def census(self) -> Census:
        """Count the boxes of each class: in training those that train, else those that a detector should find."""
        whole = self.annotations
        labels = self.labels if self.augment else whole.labels[~whole.difficult & ~whole.crowd]
        counts = np.bincount(labels - 1, minlength=len(self.classes))
        return Census(tuple(self.classes), counts, len(self), len(self))

    @property
    def ground_truth(self) -> Annotations:
        """All boxes, difficult ones and crowds included."""
        return self.annotations

    def own_names(self, detections: BoxesWithScores) -> list[dict[str, Any]]:
        """Detections under the data set's own ids and names, see `Annotations.own_names`."""
        return self.annotations.own_names(detections)


_PIXELS_OF = {
    "auto": "as it is stored, or as its EXIF orientation turns it",
    "apply": "as its EXIF orientation turns it (data.exif is apply)",
    "ignore": "as it is stored (data.exif is ignore)",
}


def read_photograph(
    path: Path, height: int, width: int, orientation: Orientation | None = None, made: Made | None = None
) -> Image.Image:
    """Read an image as RGB, of the size that its annotation states.

    Args:
        path: of the image.
        height: pixels, as the annotation states it.
        width: likewise.
        orientation: says whether it is turned as its EXIF orientation says; None is `auto`.
        made: see `read_image`.

    Raises:
        DataError: it cannot be read, is too large or would become so, or has another size; one line.
    """
    orientation = orientation or Orientation()
    picture = read_image(path, orientation, (height, width), made)
    if picture.size != (width, height):
        raise DataError(
            f"{path} has height {picture.height} and width {picture.width}, its annotation says height {height} and "
            f"width {width}; boxes are in the pixels of the file {_PIXELS_OF[orientation.exif]}"
        )
    return picture
