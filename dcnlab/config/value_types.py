"""Checks that the values of a `Config` made in Python are of the types that its fields state."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from dcnlab.config.keys import default_of, describe_type, type_of
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import shown


def check_types(config: Config) -> None:
    """Check the type of every value.

    Raises:
        ConfigError: one is of another type, such as the text "3" for a number; names the key.
    """
    _check_section(config, "")


def _check_section(section: Any, prefix: str) -> None:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        hint = type_of(key)
        if dataclasses.is_dataclass(hint) and isinstance(value, typing.cast(type, hint)):
            _check_section(value, f"{key}.")
        elif not _fits(value, hint):
            wanted = describe_type(hint)
            if not dataclasses.is_dataclass(hint):
                wanted += f", such as its default {shown(default_of(key))}"
            raise ConfigError(f"{key} is {shown(value)}; it must be {wanted}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(element, inner[0]) for element in value)
    if origin is tuple:
        return isinstance(value, tuple | list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    if hint is str:
        return isinstance(value, str | type) or callable(value)  # a class of the user's own in the place of its name
    return isinstance(value, origin or hint)
