"""The image of a figure, the objects on it, and the units whose sampling locations are drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from dcnlab.ablations.analysis.tracing import DeformedLayer, nearest_unit
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

_NO_LABEL = 255


@dataclass
class Subject:
    """An image and what is on it."""

    name: str
    """For file names."""
    image: Tensor
    """(3, H, W), normalised, on the network's device."""
    picture: Image.Image
    """The same as people see it."""
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


@dataclass(frozen=True)
class Unit:
    """An activation unit to look from."""

    title: str
    place: tuple[int, int]
    """Row and column on the layer's output."""


def load(config: Config, parts: Parts, image: str, score: float) -> Subject:
    """Take an image of the run's test split, `test:N`, or a file, and find out what is on it.

    That is what the split's annotation says; of a file, or an image without annotated objects, what the network finds.

    Args:
        config: of the run.
        parts: of the run, restored.
        image: `test:` and the image's number from 0, or a path.
        score: of detections that count.

    Raises:
        ConfigError: there is no such image; one line.
    """
    number = re.fullmatch(r"test:([0-9]{1,9})", image)
    with reading_data():
        subject = _file(config, parts, image) if number is None else _of_test(config, parts, int(number[1]))
    task: Any = parts.task
    with torch.no_grad():
        if config.task == "detection" and not len(subject.boxes):
            found = task.model([subject.image])[0]
            sure = found["scores"] >= score
            subject.boxes, subject.source = found["boxes"][sure].float().cpu(), "found"
            subject.names = [parts.data.classes[label - 1] for label in found["labels"][sure].tolist()]
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
    # A file of the user's has no annotation: it is shown as viewers show it, unless data.exif says otherwise.
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


def places(subject: Subject, layer: DeformedLayer, at: Sequence[str], classes: Sequence[str]) -> list[Unit]:
    """The units to look from: those asked for, else on a small object, on a large one, and on the background.

    Args:
        subject: the image.
        layer: whose output's units they are.
        at: `x,y` each, in pixels of the file; of a crop, in its own.
        classes: names of the regions' classes.

    Raises:
        ConfigError: a place that is none, or outside the image; one line.
    """
    if at:
        return [Unit(f"at {text}", nearest_unit(layer, _pixel(subject, text))) for text in at]
    if subject.regions is not None:
        return _in_regions(subject.regions, layer, classes)
    return _in_boxes(subject, layer)


def _pixel(subject: Subject, text: str) -> tuple[float, float]:
    """(y, x) on the image, a pixel's centre being its index."""
    height, width = subject.file_size or (subject.picture.height, subject.picture.width)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*,\s*([0-9]+(?:\.[0-9]+)?)\s*", text)
    if found is None:
        raise ConfigError(f"--at is {text!r}; it must be x,y, two numbers of pixels such as {width // 2},{height // 2}")
    x, y = float(found[1]), float(found[2])
    if x >= width or y >= height:
        raise ConfigError(f"--at is {text!r}, outside the image: x must be below {width}, y below {height}")
    scale = subject.picture.height / height, subject.picture.width / width
    return (y + 0.5) * scale[0] - 0.5, (x + 0.5) * scale[1] - 0.5


def _in_boxes(subject: Subject, layer: DeformedLayer) -> list[Unit]:
    boxes = subject.boxes.double()
    middle = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2 - 0.5
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort().tolist()
    if not order:
        pixel = ((subject.picture.height - 1) / 2, (subject.picture.width - 1) / 2)
        return [Unit("the image's middle", nearest_unit(layer, pixel))]
    kinds = {"object": order[0]} if len(order) == 1 else {"small object": order[0], "large object": order[-1]}
    units = [
        Unit(f"{kind}: {subject.names[at]}", nearest_unit(layer, middle[at].tolist())) for kind, at in kinds.items()
    ]
    # The background's unit is the one farthest from boxes and from the image's edge.
    pixels = _pixels_of_units(subject, layer)
    y, x = pixels[..., 0, None], pixels[..., 1, None]
    beside = torch.maximum(boxes[:, 0] - 0.5 - x, x - boxes[:, 2] + 0.5)
    above = torch.maximum(boxes[:, 1] - 0.5 - y, y - boxes[:, 3] + 0.5)
    away = torch.maximum(beside, above).amin(-1)
    rim = torch.stack((y[..., 0], x[..., 0], subject.picture.height - y[..., 0], subject.picture.width - x[..., 0]))
    free = torch.minimum(away, rim.amin(0) + 1)
    if free.max() > 0:
        row, column = divmod(int(free.argmax()), free.shape[1])
        units.append(Unit("background", (row, column)))
    return units


def _in_regions(regions: Tensor, layer: DeformedLayer, classes: Sequence[str]) -> list[Unit]:
    """The middles of the smallest and the largest class's region, and of the background's, or of one between."""
    height, width = regions.shape
    rows, columns = _pixels_on(layer, height, width)
    seen = regions[rows.round().long()[:, None], columns.round().long()]
    counts = {label: int((seen == label).sum()) for label in seen.unique().tolist() if label != _NO_LABEL}
    background = [label for label in counts if classes[label] == "background"]
    ranked = sorted((label for label in counts if label not in background), key=lambda label: counts[label])
    between = background or ranked[len(ranked) // 2 : len(ranked) // 2 + 1]
    chosen = list(dict.fromkeys([*ranked[:1], *ranked[-1:], *between]))
    return [Unit(classes[label], _deepest(seen == label)) for label in chosen]


def _pixels_on(layer: DeformedLayer, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the units, in the image's pixels, kept within it."""
    rows, columns = layer.offset.shape[-2:]
    y, x = (
        torch.arange(count, dtype=torch.float64) * layer.output.scale[axis] + layer.output.shift[axis]
        for axis, count in enumerate((rows, columns))
    )
    return y[y < height].clamp(0, height - 1), x[x < width].clamp(0, width - 1)


def _pixels_of_units(subject: Subject, layer: DeformedLayer) -> Tensor:
    y, x = _pixels_on(layer, subject.picture.height, subject.picture.width)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)


def _deepest(mask: Tensor) -> tuple[int, int]:
    """A place of the mask that is farthest from what is not in it; the image's edge counts as in it by one step."""
    left = mask.float()[None, None]
    while True:
        smaller = -functional.max_pool2d(-functional.pad(left, (1, 1, 1, 1)), 3, 1)
        if not smaller.any():
            break
        left = smaller
    row, column = divmod(int(left.argmax()), mask.shape[1])
    return row, column
