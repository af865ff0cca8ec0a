"""Overrides of an experiment: `key=value` words, a wandb agent's parameters, and how they are set on the typed tree."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcnlab.config.keys import default_of, describe_type, suggestion, type_of
from dcnlab.io import yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import check_encodable, shown

COMMAND_LINE = "command line"
"""The source of `key=value`, in messages."""


NULLS = ("null", "None", "~")
"""How YAML and Python write that there is no value."""

# OmegaConf's resolvers, such as oc.env, would put the environment's secrets into config.yaml and onto wandb.
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_.]*\}")


def is_override(word: str) -> bool:
    """Whether a word of the command line is key=value; an existing file is none, even with "=" in its path."""
    return "=" in word and not os.path.isfile(word)


def repeated(words: Sequence[str]) -> dict[str, list[str]]:
    """The keys that several `key=value` set to different values, with these in their order.

    Args:
        words: of a command line; those that are not key=value are left out.
    """
    values: dict[str, list[str]] = {}
    for word in filter(is_override, words):
        key, _, value = word.partition("=")
        values.setdefault(key, []).append(value)
    return {key: given for key, given in values.items() if len(set(given)) > 1}


def last_of_each(words: Sequence[str]) -> list[str]:
    """The words `key=value` that count: the last one of each key, in the order of the keys."""
    return list({word.partition("=")[0]: word for word in words}.values())


def parse_override(word: str) -> tuple[str, Any]:
    """Split `key=value`; the value of a key that takes text is that text, any other is read as YAML.

    Raises:
        ConfigError: it has no such form, or the value is not YAML.
    """
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"{word}: not of the form key=value")
    hint = type_of(key)
    if (hint == str | None and value in ("", "null")) or (hint is str and value in NULLS):
        return key, None
    if hint in (str, str | None):
        return key, value
    if value in NULLS and type(None) in typing.get_args(hint):  # as Python writes null
        return key, None
    try:
        return key, yaml_file.parse_value(value)
    except ValueError as error:
        raise ConfigError(f"{word[:100]}: the value is not YAML: {error}") from error


def set_keys(tree: DictConfig, layer: dict[str, Any], source: str) -> None:
    """Set the keys of `layer`, nested or dotted, on the typed tree.

    Args:
        tree: changed in place.
        layer: of a file, a sweep or the command line.
        source: where it is from, for messages.

    Raises:
        ConfigError: no such key, or a value of the wrong type; names `source`, the key and what it takes.
    """
    for key, value in _leaves(layer, source):
        hint = type_of(key)
        if dataclasses.is_dataclass(hint) and value is None and source != COMMAND_LINE:
            continue  # a section of which every key is commented out
        _check_texts(key, value, source)
        try:
            # OmegaConf takes a list of lists or mappings, whatever the type of its elements should be.
            if isinstance(value, list) and any(isinstance(element, dict | list) for element in value):
                raise ValueError(f"{key} is nested")
            OmegaConf.update(tree, key, value, merge=not isinstance(value, dict))  # one mapping replaces the other
        except (OmegaConfBaseException, ValueError, OverflowError) as error:
            raise ConfigError(f"{source}: {key} is {shown(value)}; it must be {_wanted(key, value, hint)}") from error


def _wanted(key: str, value: Any, hint: Any) -> str:
    """What a key takes, and its default where it was given no value."""
    wanted = describe_type(hint)
    if value is not None or dataclasses.is_dataclass(hint):
        return wanted
    return f"{wanted}, such as its default {shown(default_of(key))}"


def _leaves(layer: dict[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values down to where the typed tree ends.

    Raises:
        ConfigError: the tree has no such key.
    """
    for key, value in layer.items():
        full = f"{prefix}{key}"
        hint = type_of(full)
        if hint is None:
            raise ConfigError(f"{source}: no such key {full}" + suggestion(full))
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            yield from _leaves(value, source, f"{full}.")
        else:
            yield full, value


def _check_texts(key: str, value: Any, source: str) -> None:
    """Check that the texts of a value refer to keys only, and that a file can hold them.

    Raises:
        ConfigError: one does not.
    """
    for text in texts(value):
        if "${" in _REFERENCE.sub("", text):
            raise ConfigError(
                f"{source}: {key} is {shown(value)}; ${{...}} stands for another key of the experiment, such as "
                "${data.root}, and for nothing else: the environment is not read"
            )
    for text in texts(value):
        try:
            check_encodable(text, f"{source}: {key}")
        except ValueError as error:
            raise ConfigError(str(error)) from error


def texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for element in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(element)
