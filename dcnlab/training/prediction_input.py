"""Prepares images of any kind for a trained network, as the data set of its run prepares those of the test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dcnlab.config.schema import Config
from dcnlab.data.classification.image_folder import evaluation_transform
from dcnlab.data.resize import resized
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import MOST_PIXELS, read_image
from dcnlab.io.memory import enough_memory
from dcnlab.io.orientation import Orientation
from dcnlab.tasks.task import normalisation

InputImage: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""A path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W) or (1, H, W)."""


@dataclass(frozen=True)
class Input:
    """An image, and the tensor that the network takes."""

    name: str
    image: Image.Image
    """In RGB, turned as `data.exif` says."""
    tensor: Tensor
    """(3, h, w) float32, resized and normalised."""


class Preparation:
    """Turns images into the network's input.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config) -> None:
        data = config.data
        self._is_digits, self._task, self._data = data.name == "digits", config.task, data
        self._orientation = Orientation(data.exif, upright=config.task != "classification")
        self._normalise = v2.Normalize(*map(list, normalisation(config)))
        # The test itself resizes to its own sides.
        sides = (None, None) if config.test.shorter_sides else (data.shorter_side, data.longer_side)
        self._sides = sides if config.task == "detection" else (data.shorter_side, None)
        self._cropped = evaluation_transform(data.image_size, data.mean, data.std)

    @staticmethod
    def name(number: int, image: InputImage) -> str:
        """The name of an image: its path, or its number."""
        return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"

    def __call__(self, name: str, image: InputImage) -> Input:
        """Prepare one image.

        Raises:
            DataError: it cannot be read, or is not an image; names it.
        """
        with enough_memory(name):
            picture = self._picture(name, image)
            height, width = self._made(picture.height, picture.width)[:2]
            if height * width > MOST_PIXELS:
                raise DataError(f"{name} would be resized to {height} x {width} pixels; allowed are {MOST_PIXELS}")
            return Input(name, picture, self._tensor(picture))

    def _picture(self, name: str, image: InputImage) -> Image.Image:
        if isinstance(image, str | os.PathLike):
            return read_image(os.fspath(image), self._orientation, made=self._made)
        picture = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(name, image))
        if not (picture.width and picture.height):
            raise DataError(f"{name} has no pixels")
        return picture.convert("RGB")

    def _made(self, height: int, width: int) -> tuple[int, int, str]:
        """What resizing makes of an image; see `image_file.Made`."""
        if self._is_digits or self._task == "classification":
            return *resized(height, width, self._data.image_size * 8 // 7, None), "data.image_size"
        return *resized(height, width, *self._sides), "data.shorter_side"

    def _tensor(self, picture: Image.Image) -> Tensor:
        if self._is_digits:
            return self._digits(picture)
        if self._task == "classification":
            cropped: Tensor = self._cropped(picture)
            return cropped
        pixels = F.pil_to_tensor(picture)
        size = resized(picture.height, picture.width, *self._sides)
        if size != (picture.height, picture.width):
            pixels = F.resize(pixels, list(size), antialias=True)
        normalised: Tensor = self._normalise(F.to_dtype(pixels, torch.float32, scale=True))
        return normalised

    def _digits(self, picture: Image.Image) -> Tensor:
        """Brightness, as the embedded scenes are, on a canvas of their size."""
        side = self._data.image_size
        pixels = F.pil_to_tensor(picture.convert("L"))
        size = list(resized(picture.height, picture.width, side, None))
        pixels = F.resize(pixels, size, antialias=True).expand(3, -1, -1)
        if self._task == "classification":
            pixels = F.center_crop(pixels, [side, side])
        normalised: Tensor = self._normalise(F.to_dtype(pixels, torch.float32, scale=True))
        return normalised


def _pixels(name: str, image: NDArray[Any] | Tensor) -> NDArray[np.uint8]:
    """An array or tensor as (H, W, 3) or (H, W) uint8.

    Raises:
        DataError: it has another shape or type.
    """
    if isinstance(image, Tensor):
        wanted, array = "a tensor (3, H, W) or (1, H, W)", image.detach().cpu()
        if array.dim() != 3 or array.shape[0] not in (1, 3):
            raise DataError(f"{name} is a tensor {tuple(image.shape)}; it must be {wanted}")
        values = array.permute(1, 2, 0).float().numpy() if array.is_floating_point() else array.permute(1, 2, 0).numpy()
        values = values[..., 0] if values.shape[-1] == 1 else values
    else:
        values = np.asarray(image)
        if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)):
            raise DataError(f"{name} is an array {values.shape}; it must be (H, W, 3) or (H, W)")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise DataError(f"{name} is of {values.dtype}; it must be uint8, or floats from 0 to 1")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"{name} holds floats from {values.min():g} to {values.max():g}; they must be from 0 to 1")
    return (values * 255).round().astype(np.uint8)
