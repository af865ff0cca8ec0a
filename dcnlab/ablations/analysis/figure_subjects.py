"""The image of a figure, the objects on it, and the units whose sampling locations are drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from dcnlab.config.schema import Config
from dcnlab.data.digits.scenes import MEAN, STD
from dcnlab.data.resize import resized
from dcnlab.io.errors import ConfigError
from dcnlab.io.image_file import read_image
from dcnlab.io.orientation import Orientation
from dcnlab.io.text import nearest
from dcnlab.tasks.pictures import to_picture
from dcnlab.tasks.segmentation import segment
from dcnlab.training.build_data import reading_data
from dcnlab.training.parts import Parts


@dataclass
class Subject:
    """An image, and the objects or regions on it."""

    name: str
    """For file names."""
    image: Tensor
    """(3, H, W), normalised, on the network's device."""
    picture: Image.Image
    """The same for people, not normalised."""
    file_size: tuple[int, int] | None
    """Height and width of the file, where the image is all of it; None where it is a crop."""
    boxes: Tensor
    """(n, 4), x1, y1, x2, y2 in the image's pixels, continuous, from 0; on the CPU."""
    names: list[str]
    """(n,), the boxes' classes."""
    source: str
    """Where the boxes or the regions are from: annotated, or found by the network."""
    regions: Tensor | None = None
    """(H, W), the class of each pixel, 255 where it is not known; of segmentation alone."""


def load(config: Config, parts: Parts, image: str, score: float) -> Subject:
    """Load an image, and the objects or regions on it.

    They are the annotated ones. For a file, or an image without annotated objects, they are what the network finds.

    Args:
        config: of the run.
        parts: of the run, restored.
        image: `test:` and the image's number from 0, or a path.
        score: minimum score of detections.

    Raises:
        ConfigError: there is no such image; one line.
    """
    number = re.fullmatch(r"test:([0-9]{1,9})", image)
    with reading_data():
        subject = _file(config, parts, image) if number is None else _of_test(config, parts, int(number[1]))
    task: Any = parts.task
    with torch.no_grad():
        if config.task == "detection" and not len(subject.boxes):
            detections = task.model([subject.image])[0]
            sure = detections["scores"] >= score
            subject.boxes, subject.source = detections["boxes"][sure].float().cpu(), "found"
            subject.names = [parts.data.classes[label - 1] for label in detections["labels"][sure].tolist()]
        if config.task == "segmentation" and subject.regions is None:
            size = subject.image.shape[-2:]
            subject.regions, subject.source = segment(task.model, subject.image[None], size)[0].cpu(), "found"
    return subject


def _subject(config: Config, parts: Parts, name: str, image: Tensor, size: tuple[int, int] | None) -> Subject:
    data = config.data
    mean, std = ((MEAN,) * 3, (STD,) * 3) if data.name == "digits" else (data.mean, data.std)
    device = parts.trainer.strategy.root_device
    return Subject(name, image.to(device), to_picture(image, mean, std), size, torch.zeros(0, 4), [], "annotated")


def _of_test(config: Config, parts: Parts, number: int) -> Subject:
    split = parts.data.test
    if number >= len(split):
        raise ConfigError(f"test:{number}: the test split has {len(split)} images, test:0 to test:{len(split) - 1}")
    image, target = split[number]
    whole = (image.shape[1], image.shape[2]) if config.data.name == "digits" else None
    subject = _subject(config, parts, f"test-{number}", image, whole)
    if config.task == "detection":
        subject.file_size = (int(target["size"][-2]), int(target["size"][-1]))
        subject.boxes = target["boxes"].float()
        subject.names = [parts.data.classes[label - 1] for label in target["labels"].tolist()]
    elif config.task == "segmentation":
        subject.file_size = (target.shape[0], target.shape[1])
        size = (image.shape[1], image.shape[2])
        subject.regions = functional.interpolate(target[None, None].float(), size, mode="nearest-exact")[0, 0].long()
    elif config.data.name == "digits":
        scene = split.scenes[number]
        subject.boxes, subject.names = scene.boxes, [split.scenes.classes[label] for label in scene.labels.tolist()]
    return subject


def _file(config: Config, parts: Parts, name: str) -> Subject:
    path = Path(name)
    if not path.is_file():
        siblings = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(name, [*siblings, "test:0"])
        raise ConfigError(
            f"no such image: {name}" + (f"; nearest: {near}" if near else "; or test:N of the test split")
        )
    # The user's file has no annotation: it is rotated as viewers rotate it, unless data.exif is ignore.
    exif = "ignore" if config.data.exif == "ignore" else "apply"
    side = config.data.image_size

    def digit(height: int, width: int) -> tuple[int, int, str]:
        return *resized(height, width, side, None), f"data.image_size {side}"

    made = digit if config.data.name == "digits" else parts.data.test.made
    picture = read_image(path, Orientation(exif), made=made)
    size: tuple[int, int] | None = (picture.height, picture.width)
    if config.data.name == "digits":
        pixels = F.resize(F.pil_to_tensor(picture.convert("L")), [side], antialias=True)
        image = ((pixels.float() / 255 - MEAN) / STD).expand(3, -1, -1)
    elif config.task == "classification":
        image, size = parts.data.test.transform(picture), None
    else:
        image = parts.data.test.transform(tv_tensors.Image(F.pil_to_tensor(picture))).as_subclass(Tensor)
    return _subject(config, parts, path.stem, image, size)
