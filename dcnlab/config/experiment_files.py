"""Reads the files of an experiment: its `extends:` chain, and a sweep's parameters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dcnlab.config import packaged
from dcnlab.config.keys import type_of
from dcnlab.io import json_file, yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, one_line, shown
from dcnlab.io.yaml_file import read_yaml

RUN_CONFIG = "config.yaml"
"""The name of the config in a run folder."""
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
        packaged.check_kind("experiments", str(current), layer)
        if current == path and not layer:
            raise ConfigError(f"{path} is empty; an experiment states at least extends: classification/quickstart")
        base = layer.pop("extends", None)
        layers.append((current, layer))
        current = None if base is None else base_of(layers[-1][0], base)
    return layers[::-1]


def base_of(file: Path, base: Any) -> Path:
    """The file that `extends:` names: a path from the folder of the file that says it, or a packaged experiment.

    Args:
        file: that says it.
        base: the value of `extends`.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if not isinstance(base, str):
        raise ConfigError(f"{file}: extends is {shown(base)}; it must be the path of one file, or a packaged name")
    path = file.parent / os.path.expanduser(base)
    known = path if os.path.isfile(path) else packaged.packaged("experiments", base)
    if known is not None:
        return known
    siblings = [other.name for other in path.parent.glob("*.yaml")] if os.path.isdir(path.parent) else []
    near = nearest(base, [*siblings, *packaged.names("experiments")])
    raise ConfigError(f"{file}: extends {base}, and there is no such file" + (f"; nearest: {near}" if near else ""))


def read_parameters(path: str | Path) -> dict[str, Any]:
    """A sweep's parameters from a JSON file whose top is an object.

    Raises:
        ConfigError: it is not such a file.
    """
    if type_of(str(path)) is not None:
        raise ConfigError(f"{path} is a key; write {path}=VALUE, without spaces")
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
