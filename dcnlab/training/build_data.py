"""Builds the data module that a config names."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from dcnlab.config import names, outside
from dcnlab.config.data_checks import fold_numbers
from dcnlab.config.schema import Config, DataConfig
from dcnlab.data.folds import Fold
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.training.distributed.rank import is_rank_0


def data_module(config: Config) -> Any:
    """The data module with the three splits that `config.data` names; a line says what a user's folder holds.

    Raises:
        ConfigError: a setting does not fit the data set.
        DataError: its files are missing or damaged.
    """
    data = _data_module(config)
    if getattr(data, "own", None) is not None and is_rank_0():
        logging.getLogger("dcnlab").info(f"data: {data.own.line}")
    return data


def _data_module(config: Config) -> Any:
    from dcnlab.data.classification.data_module import ImageFolderDataModule
    from dcnlab.data.detection.data_module import DetectionDataModule
    from dcnlab.data.segmentation.data_module import SegmentationDataModule

    data = config.data
    if outside.is_outside(data.name):
        from dcnlab.data.outside import outside_data_module

        make = outside.target("data.name", data.name)
        loading = (data.batch_size, data.workers, config.seed)
        return outside_data_module(make, str(data.name), data, config.task, *loading)
    common: dict[str, Any] = {
        "train": data.train,
        "val": data.val,
        "test": data.test,
        "classes": data.classes,
        "batch_size": data.batch_size,
        "workers": data.workers,
        "seed": config.seed,
        "fold": None if (numbers := fold_numbers(data.fold)) is None else Fold(*numbers),
    }
    if names.has_squares(config.task, data.name):
        _check_single_splits(data)
    if data.name == "digits":
        return _digits(data, config.task, common)
    if config.task == "classification":
        return ImageFolderDataModule(
            root=data.root or "",
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            exif=data.exif,
            own=data.name == "own",
            layout=data.layout,
            color_jitter=data.color_jitter,
            **common,
        )
    shared = ("root", "shorter_side", "flip", "mean", "std", "exif", "color_jitter")
    pictures = {key: getattr(data, key) for key in shared}
    if config.task == "detection":
        return DetectionDataModule(
            data.name,
            images=data.images,
            layout=data.layout,
            annotations=data.annotations,
            longer_side=data.longer_side,
            test_sides=config.test.shorter_sides,  # the test resizes the file's own pixels, once
            test_longer_sides=config.test.longer_sides,
            **pictures,
            **common,
        )
    return SegmentationDataModule(
        data.name,
        ignore=data.ignore,
        layout=data.layout,
        random_scale=data.random_scale,
        crop_size=data.crop_size,
        test_scale=max(config.test.scales),
        **pictures,
        **common,
    )


def _digits(data: DataConfig, task: str, common: dict[str, Any]) -> Any:
    from dcnlab.data.digits.data_module import DigitsDataModule
    from dcnlab.data.digits.geometry import Geometry

    geometry = Geometry(data.image_size, data.rotation, data.scale, data.shear, data.warp, data.clutter)
    lengths: dict[str, Any] = {"train_length": data.train_length, "test_length": data.test_length}
    return DigitsDataModule(geometry, task=task, digits=data.digits, **lengths, **common)


def _check_single_splits(data: DataConfig) -> None:
    for key, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if isinstance(split, list):
            raise ConfigError(f"data.{key} is {split}; {data.name} takes the name of one split")


@contextlib.contextmanager
def reading_data() -> Iterator[None]:
    """Turn the error of a damaged file into a ConfigError, for code that reads images.

    Raises:
        ConfigError: a DataError was raised inside.
    """
    try:
        yield
    except DataError as error:
        raise ConfigError(str(error)) from error
