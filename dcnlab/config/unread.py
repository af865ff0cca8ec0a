"""Refuses settings without effect: values of keys that nothing reads in the experiment at hand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcnlab.config import names, outside, read_by
from dcnlab.config.keys import flatten, type_of
from dcnlab.config.read_by import OWN, ReadBy
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import shown

_NAMES = ("data.name", "model.name", "model.backbone.name")
"""Keys whose classes from outside may read any key."""


class Stated:
    """The keys that the layers of an experiment state, and that nothing reads after the layer that states them.

    A file may state digits for an experiment that another layer turns into one on photographs. So a value is refused
    only where nothing read it in its own layer, and nothing reads it in the end.
    """

    def __init__(self) -> None:
        self._sources: dict[str, str] = {}

    def copy(self) -> Stated:
        """One that notes further layers without changing this one."""
        other = Stated()
        other._sources = dict(self._sources)
        return other

    def note(self, tree: DictConfig, layer: Mapping[str, Any], source: str) -> None:
        """Note the keys of a layer that has just been set.

        Args:
            tree: with the layer.
            layer: nested or dotted keys.
            source: of the layer, for messages.
        """
        for key in dict(flatten(dict(layer))):
            name, reader = _field(key)
            if _missing(reader, lambda other: OmegaConf.select(tree, other)):
                self._sources[name] = source
            else:
                self._sources.pop(name, None)

    def check(self, config: Config) -> None:
        """Check the whole experiment.

        Raises:
            ConfigError: nothing reads a value other than the default; names the key and what would read it.
        """
        unread = unread_values(config)
        for key, source in self._sources.items():
            if key in unread:
                raise ConfigError(f"{source}: {_complaint(key, config)}")


def unread_values(config: Config) -> dict[str, Any]:
    """The values of an experiment that nothing reads, by dotted key; those equal to the defaults are left out."""
    values, defaults = dict(_leaves(dataclasses.asdict(config))), _defaults()
    return {
        key: value
        for key, value in values.items()
        if value != defaults[key]
        and value not in _field(key)[1].harmless
        and _missing(_field(key)[1], lambda other: values[other])
    }


def check_overrides(before: Config, after: Config, trains: bool) -> None:
    """Check the key=value of the command line upon a run's config.

    Args:
        before: the run's config.
        after: the same with the key=value.
        trains: whether the command trains the network, not only scores it or looks into it.

    Raises:
        ConfigError: a changed value that nothing reads; names the key and what would read it.
    """
    old, new = (dict(_leaves(dataclasses.asdict(config))) for config in (before, after))
    changed = [key for key in new if new[key] != old[key]]
    for key in changed:
        if not trains and is_of_training(key):
            raise ConfigError(
                f"command line: {key} is {shown(new[key])}, which only a training reads; this command takes the "
                "network as it was trained"
            )
    unread = unread_values(after)
    for key in changed:
        if key in unread:
            raise ConfigError(f"command line: {_complaint(key, after)}")


def readers(key: str) -> dict[str, tuple[Any, ...]]:
    """The values that other keys must have for a key to be read, by dotted key; empty for a key that always is."""
    return _field(key)[1].by_key()


def is_of_training(key: str) -> bool:
    """Whether only a training reads a key, so that it cannot change how a trained network is scored."""
    return _field(key)[1].training_only


def _complaint(key: str, config: Config) -> str:
    values = dict(_leaves(dataclasses.asdict(config)))
    reader = _field(key)[1]
    condition = _missing(reader, lambda other: values[other])[0]
    wanted = _sensible(condition, reader.by_key()[condition], config)
    return (
        f"{key} is {shown(values[key])}, which nothing reads where {condition} is {values[condition]}; "
        f"{condition} {' or '.join(map(str, wanted))} reads it"
    )


def _sensible(condition: str, wanted: Iterable[Any], config: Config) -> list[Any]:
    """Those of the wanted names that fit the task; all where none does."""
    of_task = {"data.name": names.data_sets(config.task), "model.name": names.networks(config.task)}.get(condition)
    wanted = list(wanted)
    return [name for name in wanted if of_task is None or name in of_task or name == OWN] or wanted


def _missing(reader: ReadBy, value_of: Any) -> list[str]:
    """The keys whose values keep a key from being read; a task's own condition comes first."""
    return [
        key
        for key, values in reader.by_key().items()
        if not (key in _NAMES and outside.is_outside(value_of(key))) and value_of(key) not in values
    ]


@functools.cache
def _field(key: str) -> tuple[str, ReadBy]:
    """The dotted name of the field that holds a key, and what reads it."""
    section: Any = Config
    path: list[str] = []
    for part in key.split("."):
        fields = {field.name: field for field in dataclasses.fields(section)}
        path.append(part)
        hint = type_of(".".join(path))
        if not dataclasses.is_dataclass(hint):
            return ".".join(path), read_by.of_field(fields[part])
        section = hint
    return key, ReadBy()


@functools.cache
def _defaults() -> dict[str, Any]:
    return dict(_leaves(dataclasses.asdict(Config())))


def _leaves(tree: dict[str, Any], section: Any = Config, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted key and value of every field; a mapping such as `data.options` is one value."""
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", tree[field.name]
        hint = type_of(key)
        if dataclasses.is_dataclass(hint):
            yield from _leaves(value, hint, f"{key}.")
        else:
            yield key, value
