"""SegmentationSplit: images with a label for each pixel, resized, cropped, flipped and normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dcnlab.data.census import MOST_READ, Census, count_pixels
from dcnlab.data.labels import (
    IGNORE,
    OUTSIDE,
    allowed_values,
    check_classes,
    counted_lookup,
    read_label,
)
from dcnlab.data.photographs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_JITTER,
    PhotographSplit,
    colour_jitter,
    flip_and_normalise,
    strings,
)
from dcnlab.data.resize import resized
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import read_image
from dcnlab.io.orientation import Orientation


class Rescale(v2.Transform):
    """Resize image and label together: the shorter side to `shorter_side`, times a factor drawn evenly from a range.

    Args:
        shorter_side: pixels; None keeps the image's own.
        random_scale: smallest and largest factor; None draws none.
    """

    def __init__(self, shorter_side: int | None = None, random_scale: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.shorter_side, self.random_scale = shorter_side, random_scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor."""
        height, width = F.get_size(flat_inputs[0])
        factor = 1.0
        if self.random_scale is not None:
            low, high = self.random_scale
            factor = low + (high - low) * torch.rand(()).item()
        return {"size": list(self.size(height, width, factor))}

    def size(self, height: int, width: int, factor: float) -> tuple[int, int]:
        """Height and width that an image is resized to under a factor."""
        shorter = self.shorter_side or min(height, width)
        if self.random_scale is not None:
            shorter = max(1, round(shorter * factor))
        return resized(height, width, shorter, None)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one of them."""
        if not isinstance(inpt, tv_tensors.Mask):
            return F.resize(inpt, params["size"], antialias=True)
        # Masks resize by "nearest" in torchvision, which takes a block's first pixel. The image's
        # resizing keeps centres in place, so the label would be shifted by up to half a pixel.
        mask = F.resize_image(inpt.as_subclass(Tensor), params["size"], v2.InterpolationMode.NEAREST_EXACT)
        return tv_tensors.Mask(mask)


class SegmentationSplit(PhotographSplit[tuple[Tensor, Tensor]]):
    """Images with their labels: image (3, h, w) float32, normalised, and label (h, w) int64, 0..C-1 or IGNORE.

    In training both are resized, cropped and flipped together; in evaluation the image is resized and the label keeps
    its own size.

    Args:
        pairs: image and label files.
        classes: class names in the order of their labels.
        lookup: (256,), the label of each value in the files, see `LabelledImages`; None takes values from 0 up.
        ignore: without a lookup: the value to leave out.
        shorter_side: of the resized image, pixels; None keeps the image's own size.
        random_scale: training: smallest and largest factor on that size; None draws none.
        crop_size: training: height and width of the random crop, pixels; an image smaller than that is padded with
            the mean colour and IGNORE; None keeps the whole image.
        flip: training: whether half of the images are mirrored.
        mean: of red, green and blue, in 0..1.
        std: likewise.
        augment: whether this is the training split.
        seed: of the augmentation.
        read: reads the values of a label file.
        orientation: says which images are turned as their EXIF orientation says, by the size of the label, which is
            taken as stored; None is `auto`.
        test_scale: the largest factor that a test resizes these images by later.
        color_jitter: training: largest changes of brightness, contrast, saturation and hue, see `colour_jitter`.

    Raises:
        DataError: on taking an item: a file is broken, too large to be decoded or resized safely, the sizes of image
            and label differ, or the label holds a value outside the classes; one line that names the file.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str | Path, str | Path]],
        classes: Sequence[str],
        lookup: NDArray[np.uint8] | Sequence[int] | None = None,
        ignore: int = IGNORE,
        shorter_side: int | None = None,
        random_scale: tuple[float, float] | None = None,
        crop_size: tuple[int, int] | None = None,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        augment: bool = False,
        seed: int = 0,
        read: Callable[[Path], NDArray[np.integer]] = read_label,
        orientation: Orientation | None = None,
        test_scale: float = 1.0,
        color_jitter: Sequence[float] = NO_JITTER,
    ) -> None:
        super().__init__(augment, seed)
        self.files = strings([str(path) for pair in pairs for path in pair]).reshape(-1, 2)
        self.classes = check_classes(classes)
        self.lookup = counted_lookup(len(classes), ignore) if lookup is None else np.asarray(lookup, np.uint8)
        self.read = read
        self.orientation = orientation or Orientation()
        self.rescale = Rescale(shorter_side, random_scale if augment else None)
        self.crop_size, self.test_scale = tuple(crop_size) if augment and crop_size is not None else None, test_scale
        steps: list[v2.Transform] = []
        if shorter_side is not None or (augment and random_scale is not None):
            steps.append(self.rescale)
        steps += colour_jitter(color_jitter if augment else NO_JITTER)  # first, so that padding keeps the mean colour
        if self.crop_size is not None:
            colour = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: IGNORE}
            steps.append(v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=colour))
        self.transform = v2.Compose([*steps, *flip_and_normalise(augment and flip, mean, std)])

    def __len__(self) -> int:
        return len(self.files)

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """Image and label files; built anew at each call."""
        return [(Path(image), Path(label)) for image, label in self.files]

    def path(self, index: int) -> str:
        """Path of an image."""
        return str(self.files[index, 0])

    def item(self, index: int, randomness: AbstractContextManager[None]) -> tuple[Tensor, Tensor]:
        """Read and transform an image with its label; in evaluation the label keeps its size."""
        image, label = self._read(*map(Path, self.files[index]))
        with randomness:
            if self.augment:
                image, label = self.transform(image, label)
            else:
                image = self.transform(image)
        return image.as_subclass(Tensor), label.as_subclass(Tensor)[0].long()

    def made(self, height: int, width: int) -> tuple[int, int, str]:
        """The largest that resizing and padding make of an image, in a later test too; see `image_file.Made`."""
        factor = (self.rescale.random_scale or (1.0, 1.0))[1]
        high, wide = self.rescale.size(height, width, factor)
        if self.crop_size is not None:  # an image that is smaller is padded before it is cropped
            high, wide = max(high, self.crop_size[0]), max(wide, self.crop_size[1])
        elif not self.augment:
            high, wide = max(1, round(high * self.test_scale)), max(1, round(wide * self.test_scale))
        names = {
            "data.shorter_side": self.rescale.shorter_side,
            "data.random_scale": self.rescale.random_scale,
            "data.crop_size": self.crop_size,
            "test.scales": None if self.augment or self.test_scale == 1 else self.test_scale,
        }
        return high, wide, " and ".join(f"{name} {value}" for name, value in names.items() if value is not None)

    def census(self, most: int = MOST_READ) -> Census:
        """Count the pixels of each class in the label files, or in an evenly spaced sample of `most` of them."""
        return count_pixels(self.files[:, 1].tolist(), self.read, self.classes, self.lookup, most)

    def _read(self, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
        values = self.read(label_path)
        size = (values.shape[0], values.shape[1])
        image = tv_tensors.Image(F.pil_to_tensor(read_image(image_path, self.orientation, size, self.made)))
        if values.shape != tuple(image.shape[1:]):
            sizes = [f"{width}x{height}" for height, width in (values.shape, image.shape[1:])]
            raise DataError(f"{label_path} is {sizes[0]} pixels, but its image {image_path} is {sizes[1]}")
        labels = self.lookup[values] if values.dtype == np.uint8 else None
        if labels is None or (labels == OUTSIDE).any():
            known = np.where((values >= 0) & (values < 256), self.lookup[values.astype(np.int64) % 256], OUTSIDE)
            if (known == OUTSIDE).any():
                raise DataError(
                    f"{label_path} holds the label value {values[known == OUTSIDE].min()}; "
                    f"allowed are {allowed_values(self.lookup)}"
                )
            labels = known.astype(np.uint8)
        return image, tv_tensors.Mask(torch.from_numpy(labels)[None])
