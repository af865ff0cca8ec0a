"""Checks of the section `data` of an experiment."""

from __future__ import annotations

import math
import re

from dcnlab.config import names
from dcnlab.config.outside import is_outside
from dcnlab.config.schema import DataConfig
from dcnlab.config.value_checks import choose, choose_or_outside, within
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import shown


def check_data(data: DataConfig) -> None:
    """Check the section `data`.

    Raises:
        ConfigError: a value is out of its range, or the data set lacks its folder; names the key.
    """
    choose_or_outside("data.name", data.name, names.DATA_SETS)
    if names.data_set(data.name).layout is not None and data.root is None:
        raise ConfigError(
            f"data.root is null; data.name {data.name} needs the folder of the data set: data.root=FOLDER"
        )
    within("data.batch_size", data.batch_size, 1)
    within("data.workers", data.workers, 0)
    within("data.image_size", data.image_size, 8)
    within("data.ignore", data.ignore, 0, 255)
    fold_numbers(data.fold)
    if data.fold is not None and is_outside(data.name):
        raise ConfigError(f"data.fold is {data.fold}; a data set of your own cuts its folds itself, by data.options")
    choose("data.exif", data.exif, ("auto", "apply", "ignore"))
    within("data.shorter_side", data.shorter_side, 16)
    within("data.longer_side", data.longer_side, 16)
    within("data.digits", data.digits, 1, 255)
    if data.protocol is not None:
        choose("data.protocol", data.protocol, names.PROTOCOLS)
    if data.crop_size is not None and min(data.crop_size) < 16:
        raise ConfigError(f"data.crop_size is {list(data.crop_size)}; both must be at least 16")
    if not all(abs(value) < math.inf for value in data.mean):
        raise ConfigError(f"data.mean is {list(data.mean)}; it must be three numbers")
    if not all(0 < value < math.inf for value in data.std):
        raise ConfigError(f"data.std is {list(data.std)}; all three must be above 0")
    if not all(0 <= value < math.inf for value in data.color_jitter) or data.color_jitter[3] > 0.5:
        raise ConfigError(
            f"data.color_jitter is {list(data.color_jitter)}; brightness, contrast and saturation must be at least 0, "
            "and hue 0 to 0.5"
        )
    within("data.train_length", data.train_length, 1)
    within("data.test_length", data.test_length, 1)
    within("data.rotation", data.rotation, 0, 180)
    within("data.shear", data.shear, 0, 1)
    within("data.warp", data.warp, 0, 0.15)
    within("data.clutter", data.clutter, 0)
    for key, pair in (("scale", data.scale), ("random_scale", data.random_scale)):
        if not 0 < pair[0] <= pair[1] < math.inf:
            raise ConfigError(f"data.{key} is {list(pair)}; it must be two numbers above 0, the smaller one first")


def fold_numbers(fold: str | None) -> tuple[int, int] | None:
    """Fold k and number of folds n of `data.fold`; None: the data set is not cut.

    Raises:
        ConfigError: it is not k/n with 1 <= k <= n and n from 2 on; names the nearest that is.
    """
    if fold is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", fold)
    if match is None:
        raise ConfigError(f"data.fold is {shown(fold)}; it must be k/n, fold k of n, such as 1/5")
    number, count = int(match[1]), int(match[2])
    if count < 2 or not 1 <= number <= count:
        count = max(count, 2)
        raise ConfigError(
            f"data.fold is {shown(fold)}; k must lie in 1 to n, and n be at least 2; "
            f"nearest: {min(max(number, 1), count)}/{count}"
        )
    return number, count
