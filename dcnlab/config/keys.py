"""Keys of an experiment: their dotted names, their types, and how users are told of a type."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from typing import Any

from dcnlab.config import other_words
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, shown

ARM = "arm"
"""The parameter of a sweep that sets keys of any sections."""
_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def all_keys(section: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of an experiment, sections included."""
    names = []
    for name, hint in _hints(section).items():
        names.append(f"{prefix}{name}")
        if dataclasses.is_dataclass(hint):
            names += all_keys(typing.cast(type, hint), f"{prefix}{name}.")
    return names


def type_of(key: str) -> Any:
    """The annotated type of a dotted key, Any below a mapping of free keys; None where there is no such key."""
    hint: Any = Config
    for part in key.split("."):
        if typing.get_origin(hint) is dict:  # such as data.options, which takes any key
            return None if key.startswith("sweep.") else Any
        fields = _hints(hint)
        if part not in fields:
            return None
        hint = fields[part]
    return hint


def default_of(key: str) -> Any:
    """The default of a dotted key of the schema."""
    return functools.reduce(getattr, key.split("."), Config())


@functools.cache
def _hints(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}


def suggestion(key: str) -> str:
    """The end of an error about an unknown key: the nearest key, or those at the top."""
    known = all_keys()
    near = other_words.KEYS.get(_last(key)) or nearest(key, known)
    if near is None or dataclasses.is_dataclass(type_of(near)):  # the right name in the wrong section, or without one
        settable = [name for name in known if not dataclasses.is_dataclass(type_of(name))]
        last = nearest(_last(key), map(_last, settable))
        near = next((name for name in settable if _last(name) == last), near)
    return f"; nearest: {near}" if near else f"; there are: {', '.join(name for name in known if '.' not in name)}"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def describe_type(hint: Any) -> str:
    """A type as users know it, such as "a whole number or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in inner)
    if origin is list:
        return f"a list of {describe_type(inner[0]).removeprefix('a ')}s" if inner[0] is not str else "a list of texts"
    if origin is tuple:
        return f"a list of {len(inner)} numbers"
    if dataclasses.is_dataclass(hint):
        return f"a section with the keys {', '.join(field.name for field in dataclasses.fields(hint))}"
    return "a mapping of keys"


def parameters_of(tree: dict[str, Any]) -> dict[str, Any]:
    """A sweep's parameters by dotted key; what stands below `arm` are keys of the experiment.

    So one parameter can set keys of several sections, such as a layer and the rate that was found for it.

    Args:
        tree: the parameters, dotted or nested.

    Raises:
        ConfigError: `arm` is not a mapping, or sets a key that another parameter sets.
    """
    arm = tree.get(ARM, {})
    if not isinstance(arm, dict):
        raise ConfigError(f"parameter {ARM} is {shown(arm)}; it must be a mapping, such as {{model: {{dilation: 4}}}}")
    settings = dict(flatten({key: value for key, value in tree.items() if key != ARM}))
    for key, value in flatten(arm):
        if key in settings:
            raise ConfigError(f"parameter {ARM} sets {key}, which another parameter sets too")
        settings[key] = value
    return settings


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested dicts; an empty dict is a leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
