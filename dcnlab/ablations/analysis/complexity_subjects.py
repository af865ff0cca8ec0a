"""Experiments whose networks are counted: config, classes and image size, without their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dcnlab.config import names, packaged
from dcnlab.config.experiment_files import extends_chain
from dcnlab.config.keys import flatten
from dcnlab.config.load import load_experiment
from dcnlab.config.overrides import parse_override
from dcnlab.config.path_checks import check_paths
from dcnlab.config.schema import Config, DataConfig
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training.build_data import data_module

_NO_FOLDER = "not-needed"
"""Placeholder for a missing data folder: counting needs only the data set's classes and image size."""


_COCO_CLASSES = 80


@dataclass
class Subject:
    """One experiment, ready to be built."""

    config: Config
    classes: list[str]
    size: tuple[int, int]
    """Height and width of the network's input, pixels."""
    file_size: tuple[int, int]
    """Height and width of the image before it is resized, pixels."""


def subject_of(experiment: str, overrides: Sequence[str], size: tuple[int, int] | None, notes: list[str]) -> Subject:
    """Read an experiment as far as its network can be built from it.

    Args:
        experiment: path or packaged name of its file.
        overrides: key=value.
        size: height and width of the image, pixels; None: an image as the experiment tests on.
        notes: takes a line where the classes are those that its kind of data set has.

    Raises:
        ConfigError: it cannot be built, or only its data could tell its classes or its image size.
    """
    layers = [layer for _, layer in extends_chain(packaged.find("experiments", experiment))]
    stated = [dict(flatten(layer)) for layer in layers]
    stated.append(dict(parse_override(override) for override in overrides))
    located = any(layer.get("data.root") is not None for layer in stated)
    config = load_experiment(experiment, overrides, default_root=None if located else _NO_FOLDER)
    model = config.model
    config = replace(config, model=replace(model, backbone=replace(model.backbone, weights="none")))
    if located:
        check_paths(config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    classes = _classes(config, located)
    if not located and config.data.classes is None and config.data.name != "digits":
        notes.append(f"{config.name}: data.root is null; counted with the {len(classes)} classes of {config.data.name}")
    return Subject(config, classes, *((size, size) if size else _sizes(config)))


def _classes(config: Config, located: bool) -> list[str]:
    """The classes that a run would have: those stated, else those of the files, else those of the kind of data set."""
    data = config.data
    if data.name == "digits" or (located and data.classes is None):
        try:
            return list(data_module(config).classes)
        except (DataError, OSError) as error:
            raise ConfigError(one_line(error)) from error
    if data.classes is not None:
        return data.classes
    known = _known_classes(data, config.task)
    if known is None:
        raise ConfigError(
            f"{config.name}: data.classes is null, and only the files of an {data.name} tell its classes; "
            "give data.root=FOLDER or data.classes=[...]"
        )
    return known


def _known_classes(data: DataConfig, task: str) -> list[str] | None:
    from dcnlab.data.detection import voc as voc_detection
    from dcnlab.data.segmentation import camvid, cityscapes
    from dcnlab.data.segmentation import voc as voc_segmentation

    if data.name == "coco":
        return [str(number) for number in range(_COCO_CLASSES)]
    voc = voc_detection.VOC_CLASSES if task == "detection" else voc_segmentation.CLASSES
    known = {"voc": voc, "cityscapes": tuple(cityscapes.VALUES), "camvid": camvid.CLASSES}
    return list(known[data.name]) if data.name in known else None


def _sizes(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a usual image of the data set, as the network sees it in a test and in its file."""
    from dcnlab.data.resize import resized

    data = config.data
    data_set = names.data_set(data.name)
    if names.has_squares(config.task, data.name):
        return (data.image_size, data.image_size), (data.image_size, data.image_size)
    if data_set.usual_size is None:
        raise ConfigError(f"{config.name}: images of {data.name} have no usual size; give one: --size HxW")
    height, width = data_set.usual_size
    shorter = data.shorter_side or min(height, width)
    return resized(height, width, shorter, data.longer_side or shorter * max(height, width)), (height, width)
