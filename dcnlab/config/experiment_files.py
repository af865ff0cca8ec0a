"""Reads the files of an experiment: its `extends:` chain, and a sweep's parameters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dcnlab.io import json_file, yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, one_line, shown
from dcnlab.io.yaml_file import read_yaml

MAX_EXTENDED = 20
"""Files of an `extends:` chain; ours have three."""


def extends_chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The experiment file and the files that it extends, the most basic one first.

    Raises:
        ConfigError: one is missing, they extend each other in a circle, or they are more than `MAX_EXTENDED`.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if len(layers) == MAX_EXTENDED:
            raise ConfigError(f"{path}: extends a chain of more than {MAX_EXTENDED} files; {current} is one too many")
        if current.resolve() in seen:
            raise ConfigError(f"{layers[-1][0]}: extends {current.name}, which extends it in turn")
        seen.append(current.resolve())
        layer = read_yaml(current)
        base = layer.pop("extends", None)
        layers.append((current, layer))
        current = None if base is None else _base(layers[-1][0], base)
    return layers[::-1]


def _base(file: Path, base: Any) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{file}: extends is {shown(base)}; it must be the path of one file")
    path = file.parent / os.path.expanduser(base)
    if not os.path.isfile(path):  # Path.is_file raises where the name is too long for a file
        siblings = path.parent.glob("*.yaml") if os.path.isdir(path.parent) else ()
        near = nearest(base, [other.name for other in siblings])
        raise ConfigError(f"{file}: extends {base}, and there is no such file" + (f"; nearest: {near}" if near else ""))
    return path


def read_parameters(path: str | Path) -> dict[str, Any]:
    """A sweep's parameters from a JSON file whose top is an object.

    Raises:
        ConfigError: it is not such a file.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; after the experiment come key=value and JSON files of parameters")
    try:
        tree = json_file.load(Path(path), yaml_file.LARGEST)
        json_file.check_depth(tree)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON: {one_line(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a JSON object of parameters, and is a {type(tree).__name__}")
    return tree
