"""Where each value of an experiment comes from: a file of the `extends:` chain, the command line, or the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.config import keys, packaged
from dcnlab.config.experiment_files import extends_chain
from dcnlab.config.key_texts import settable
from dcnlab.config.load import load_experiment
from dcnlab.config.overrides import COMMAND_LINE, parse_override
from dcnlab.config.schema import Config

UNSTATED = "FOLDER"
"""Stands for a data.root that is not stated, so that an experiment on files can be read without them."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """The value of one key."""

    key: str
    value: Any
    source: str | None
    """A file's packaged name or path, or the command line; None: the default."""


def settings_of(experiment: str | None = None, overrides: Sequence[str] = ()) -> list[Setting]:
    """Every key that a user can set, with its value and the last place that states it.

    Args:
        experiment: path or packaged name of its file; None: the defaults.
        overrides: key=value.

    Raises:
        ConfigError: there is no such experiment, or a value does not hold.
    """
    if experiment is None:
        return [Setting(key, keys.default_of(key), None) for key in settable()]
    config = load_experiment(experiment, overrides, default_root=UNSTATED)
    path = packaged.find("experiments", experiment)
    layers = [(_name_of(file), layer) for file, layer in extends_chain(path)]
    layers.append((COMMAND_LINE, dict(map(parse_override, overrides))))
    source: dict[str, str] = {}
    for name, layer in layers:
        source |= dict.fromkeys(_stated(layer), name)
    source.setdefault("name", f"the name of {_name_of(path)}")
    return [_setting(config, key, source.get(key)) for key in settable()]


def _setting(config: Config, key: str, source: str | None) -> Setting:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    if key == "data.root" and source is None:
        value = None
    return Setting(key, value, source)


def _stated(layer: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of the schema that a layer states, nested or dotted; a mapping such as `data.options` is one key."""
    stated = []
    for name, value in layer.items():
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(keys.type_of(key)):
            stated += _stated(value, f"{key}.") if isinstance(value, dict) else []
        else:
            stated.append(next((known for known in settable() if f"{key}.".startswith(f"{known}.")), key))
    return stated


def _name_of(path: Path) -> str:
    """The packaged name of an experiment file, else its path."""
    root = packaged.folder("experiments")
    path_inside = path.resolve()
    return str(path_inside.relative_to(root).with_suffix("")) if path_inside.is_relative_to(root) else str(path)
