"""The typed tree of an experiment: made of the defaults, and turned into a checked `Config`."""

from __future__ import annotations

import copy
import functools
import os
import typing
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcnlab.config import data_roots, identity, validation
from dcnlab.config.keys import flatten
from dcnlab.config.overrides import COMMAND_LINE, texts
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line

MAX_REFERENCES = 12
"""Occurrences of `${...}` in an experiment."""


def new_tree() -> DictConfig:
    """A typed tree of the defaults."""
    return copy.deepcopy(_defaults())


@functools.cache
def _defaults() -> DictConfig:
    """The tree of the defaults; OmegaConf takes six times as long to build it from the dataclasses as to copy it."""
    return typing.cast(DictConfig, OmegaConf.structured(Config))


def checked(tree: DictConfig, source: str, before: Callable[[], DictConfig] | None = None) -> Config:
    """The tree as plain dataclasses that `validation` accepts.

    Args:
        tree: to check.
        source: the file to name in an error.
        before: gives the tree without the command line; where it is valid, an error is the command line's.

    Raises:
        ConfigError: a value out of its range, or a reference to a key that does not exist.
    """
    if sum(text.count("${") for text in texts(OmegaConf.to_container(tree, resolve=False))) > MAX_REFERENCES:
        raise ConfigError(f"{source}: holds more than {MAX_REFERENCES} ${{...}}, which may multiply without end")
    try:
        config = _converted(tree)
    except (ConfigError, OmegaConfBaseException) as error:
        culprit = COMMAND_LINE if before is not None and _is_valid(before()) else source
        raise ConfigError(f"{culprit}: {one_line(error)}") from error
    config.out, config.model.backbone.weights = map(os.path.expanduser, (config.out, config.model.backbone.weights))
    if config.data.root is not None:
        config.data.root = data_roots.folder_of(config.data.root)
    return config


def _converted(tree: DictConfig) -> Config:
    config = typing.cast(Config, OmegaConf.to_object(tree))
    validation.check(config)
    return config


def _is_valid(tree: DictConfig) -> bool:
    try:
        _converted(tree)
    except (ConfigError, OmegaConfBaseException):
        return False
    return True


def drop_expected_of_another_run(tree: DictConfig, as_stated: DictConfig | None) -> None:
    """Empty `test.expected` where the settings are no longer those that it was stated for.

    Args:
        tree: with the sweep's parameters and the command line; changed in place.
        as_stated: without them; None if it stated no metrics. Metrics that differ from these were stated for `tree`
            itself, and stay.
    """
    if as_stated is None or tree.test.expected != as_stated.test.expected:
        return
    if _metric_settings(tree) != _metric_settings(as_stated):
        tree.test.expected = {}


def _metric_settings(tree: DictConfig) -> dict[str, Any]:
    """The settings that decide the metrics of a run, by dotted key."""
    leaves = flatten(typing.cast(dict[str, Any], OmegaConf.to_container(tree, resolve=False)))
    return {key: value for key, value in leaves if identity.decides_metrics(key)}
