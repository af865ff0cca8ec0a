"""Reads untrusted YAML through the safe loader, its size and depth checked first."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line

LARGEST = 2**20
"""Bytes of a file; our longest experiment has two thousand."""
DEEPEST = 24
"""Levels of nesting; an experiment has five."""
MOST_NODES = 10_000
"""Values and keys in all, those that aliases repeat counted each time."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OPENING = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSING = (yaml.SequenceEndEvent, yaml.MappingEndEvent)
# YAML that cannot be a config, such as a date, a set or a number of a thousand digits, raises many kinds of errors.
_RAISED = (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError, TypeError, OSError, AssertionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping, through the safe loader; duplicate keys are refused.

    Raises:
        ConfigError: it is not such a file; one line.
    """
    try:
        text = read_bytes(path, LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    return mapping(text, str(path))


def mapping(text: str, source: str) -> dict[str, Any]:
    """A text of YAML whose top is a mapping.

    Raises:
        ConfigError: it is not such a text; one line that begins with `source`.
    """
    try:
        tree = parse(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: must be a mapping of keys, and is a {type(tree).__name__}")
    wrong = next((key for key in tree if not isinstance(key, str)), None)
    if wrong is not None:
        raise ConfigError(f"{source}: the key {wrong!r} is not a name")
    return tree


def parse(text: str) -> Any:
    """Parse YAML text to plain Python; `${...}` stay as written.

    Raises:
        ValueError: it is not YAML, too deep, or too much; one line.
    """
    try:
        _check_depth(text)
        tree = OmegaConf.load(io.StringIO(text), max_yaml_expanded_nodes=MOST_NODES)
        return OmegaConf.to_container(tree, resolve=False)
    except _RAISED as error:
        raise ValueError(one_line(error)) from error


def _check_depth(text: str) -> None:
    """Refuse what nests deeply, by the parser's events: the loader itself recurses, in C, until the stack is gone."""
    depths = itertools.accumulate(_steps(text))
    if any(depth > DEEPEST for depth in depths):
        raise ValueError(f"nested more than {DEEPEST} levels deep")


def _steps(text: str) -> Iterator[int]:
    for event in yaml.parse(text, _Loader):
        yield isinstance(event, _OPENING) - isinstance(event, _CLOSING)


def parse_value(text: str) -> Any:
    """Parse the value of `key=value`, by the same rules.

    Raises:
        ValueError: see `parse`.
    """
    try:
        _check_depth(text)
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore
    except _RAISED as error:
        raise ValueError(one_line(error)) from error
