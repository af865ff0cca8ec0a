"""Draws what an experiment trains on, with boxes, label maps or class names, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dcnlab.config.path_checks import check_paths
from dcnlab.config.schema import Config
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.tasks.box_pictures import box_panel
from dcnlab.tasks.class_pictures import class_panel
from dcnlab.tasks.label_pictures import label_picture
from dcnlab.tasks.pictures import grid, png, to_picture
from dcnlab.tasks.task import normalisation
from dcnlab.training.build_data import data_module, reading_data


def write(config: Config, split: str, out: Path, rows: int, columns: int) -> None:
    """Draw images of a split, as the network sees them, into one PNG: training images cropped and mirrored.

    Args:
        config: an experiment.
        split: train, val or test.
        out: of the PNG; its folder is made.
        rows: of pictures, which are spread over the split.
        columns: likewise.

    Raises:
        ConfigError: the data set is missing or damaged, or it has no such split.
    """
    check_paths(config)
    with reading_data():
        data = data_module(config)
        images = getattr(data, split)
        if images is None:
            raise ConfigError(f"data.{split} is null: there is nothing to preview; take --split train")
        count = min(rows * columns, len(images))
        items = [images[number * len(images) // count] for number in range(count)]
    mean, std = normalisation(config)
    pictures = [_drawn(item, config.task, data.classes, mean, std) for item in items]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, png(grid(pictures, columns)))


def _drawn(
    item: tuple[Tensor, Any], task: str, classes: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> Image.Image:
    """One image with its label."""
    image, label = item
    picture = to_picture(image, mean, std)
    if task == "classification":
        return class_panel([(picture, classes[int(label)])])
    if task == "detection":
        return box_panel(picture, label["boxes"], label["labels"], classes)
    return label_picture(picture.resize((label.shape[1], label.shape[0])), label, classes)
