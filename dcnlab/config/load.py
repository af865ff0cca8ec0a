"""Reads experiments: a file with its `extends:` chain, a sweep's parameters and overrides become a checked `Config`."""

from __future__ import annotations

import copy
import os
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcnlab.config import identity, outside, packaged, validation
from dcnlab.config.keys import flatten
from dcnlab.config.overrides import is_override, parse_override, set_keys, split_agent_parameters, texts
from dcnlab.config.schema import Config
from dcnlab.io import json_file, yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, one_line, shown
from dcnlab.io.yaml_file import read_yaml

MAX_REFERENCES = 12
"""Occurrences of `${...}` in an experiment."""
MAX_EXTENDED = 20
"""Files of an `extends:` chain; ours have three."""


RUN_CONFIG = "config.yaml"
"""The name of the config in a run folder."""


def load_experiment(
    experiment: str,
    args: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    allow: Sequence[outside.Allowed] = (),
) -> Config:
    """Read an experiment, and import the classes from outside that it names.

    A file called config.yaml is a run's, and perhaps somebody else's: the classes that it alone names are not imported.

    Precedence, weakest first: defaults, the `extends:` chain, the file, sweep parameters, key=value.

    Args:
        experiment: path or packaged name of the experiment file.
        args: what follows it on the command line: `key=value`, and paths of JSON files with a sweep's parameters, such
            as wandb's `${args_json_file}`. Under a wandb agent, `${args_no_hyphens}` gives the parameters as key=value.
        parameters: a sweep's parameters, dotted or nested, in place of a JSON file.
        allow: classes that may be imported wherever they are named, see `outside.admit`.

    Raises:
        ConfigError: anything in it that the user can mend.
    """
    path = packaged.find("experiments", experiment)
    chain = extends_chain(path)
    tree = _tree(path, chain)
    as_stated = copy.deepcopy(tree)
    # The config.yaml of a sweep's run is an experiment too: a run of it has the same parameters.
    swept = {key: OmegaConf.select(tree, key) for key in tree.sweep}

    words = [arg for arg in args if is_override(arg)]
    layers = [("sweep", dict(flatten(parameters or {})))]
    layers += [(arg, dict(flatten(read_parameters(arg)))) for arg in args if not is_override(arg)]
    if parameters is None and len(words) == len(args):
        from_agent, words = split_agent_parameters(words)
        layers.append(("the sweep's parameters", dict(flatten(from_agent))))
    for source, layer in layers:
        set_keys(tree, layer, source)
        swept |= layer

    before = copy.deepcopy(tree)
    overrides = dict(map(parse_override, words))
    for key, value in overrides.items():
        set_keys(tree, {key: value}, "command line")
    # A parameter that the command line overrules is recorded as it was used.
    used = dict(flatten(overrides))
    tree.sweep = {key: used.get(key, value) for key, value in swept.items()}
    _drop_expected_of_another_run(tree, as_stated)
    config = _checked(tree, str(path), before)
    by_user = [dict(flatten(layer)) for file, layer in chain if file.name != RUN_CONFIG]
    by_user += [used, *(layer for _, layer in layers)]
    outside.admit(config, [*allow, *(name for layer in by_user for name in outside.names_in(layer))], str(path))
    return config


def load_run(folder: Path, overrides: Sequence[str] = (), allow: Sequence[outside.Allowed] = ()) -> Config:
    """The config of a run folder, to build from: its `config.yaml`, with key=value overrides.

    Args:
        folder: of the run.
        overrides: key=value. A class from outside that they name is allowed.
        allow: classes from outside that may be imported, see `outside.admit`.

    Raises:
        ConfigError: there is no such run, its file does not fit the schema, or it names a class that is not allowed.
    """
    config = read_run(folder, overrides)
    by_user = outside.names_in(dict(map(parse_override, overrides)))
    outside.admit(config, [*allow, *by_user], str(folder))
    return config


def read_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder, to be looked at: nothing from outside is imported, and nothing can be built from it.

    Raises:
        ConfigError: there is no such run, or its file does not fit the schema.
    """
    path = folder / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.yaml")
    tree = OmegaConf.structured(Config)
    set_keys(tree, read_yaml(path), str(path))
    before = copy.deepcopy(tree) if overrides else None
    for key, value in map(parse_override, overrides):
        set_keys(tree, {key: value}, "command line")
    if before is not None:
        _drop_expected_of_another_run(tree, before)
    return _checked(tree, str(path), before)


def from_yaml(text: str, source: str) -> Config:
    """The config whose `to_yaml` is `text`.

    Args:
        text: YAML.
        source: where it is from, for messages.

    Raises:
        ConfigError: it does not fit the schema.
    """
    tree = OmegaConf.structured(Config)
    set_keys(tree, yaml_file.mapping(text, source), source)
    return _checked(tree, source)


def from_settings(settings: dict[str, Any], source: str, allow: Sequence[outside.Allowed] = ()) -> Config:
    """The config of a checkpoint, from the settings by dotted key that it holds.

    Args:
        settings: as from `identity.settings`.
        source: where they are from, for messages.
        allow: classes from outside that may be imported, see `outside.admit`.

    Raises:
        ConfigError: they do not fit the schema, or name a class that is not allowed.
    """
    tree = OmegaConf.structured(Config)
    set_keys(tree, settings, source)
    if tree.trainer.max_steps is None and tree.trainer.max_epochs is None:  # of a task that was built without a run
        tree.trainer.max_epochs = 1
    config = _checked(tree, source)
    outside.admit(config, allow, source)
    return config


def to_yaml(config: Config) -> str:
    """The whole config as YAML that `load_run` and `from_yaml` read back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


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


def _tree(path: Path, layers: list[tuple[Path, dict[str, Any]]]) -> DictConfig:
    """The typed tree of a file and the files that it extends; a file that states no name is called by its own."""
    tree = OmegaConf.structured(Config)
    for file, layer in layers:
        tree.test.expected = {}  # of the file that this one extends
        set_keys(tree, layer, str(file))
    if not any("name" in layer for _, layer in layers):
        set_keys(tree, {"name": path.stem}, str(path))
    return tree


def _drop_expected_of_another_run(tree: DictConfig, as_stated: DictConfig) -> None:
    """Empty `test.expected` where the settings are no longer those that it was stated for.

    Args:
        tree: with the sweep's parameters and the command line; changed in place.
        as_stated: without them. Metrics that differ from these were stated for `tree` itself, and stay.
    """
    if tree.test.expected == as_stated.test.expected and _metric_settings(tree) != _metric_settings(as_stated):
        tree.test.expected = {}


def _metric_settings(tree: DictConfig) -> dict[str, Any]:
    """The settings that decide the metrics of a run, by dotted key."""
    leaves = flatten(typing.cast(dict[str, Any], OmegaConf.to_container(tree, resolve=False)))
    return {key: value for key, value in leaves if identity.decides_metrics(key)}


def _checked(tree: DictConfig, source: str, before: DictConfig | None = None) -> Config:
    """The tree as plain dataclasses that `validation` accepts.

    Args:
        tree: to check.
        source: the file to name in an error.
        before: the tree without the command line; where it is valid, the error is the command line's.

    Raises:
        ConfigError: a value out of its range, or a reference to a key that does not exist.
    """
    if sum(text.count("${") for text in texts(OmegaConf.to_container(tree, resolve=False))) > MAX_REFERENCES:
        raise ConfigError(f"{source}: holds more than {MAX_REFERENCES} ${{...}}, which may multiply without end")
    try:
        config = _converted(tree)
    except (ConfigError, OmegaConfBaseException) as error:
        culprit = "command line" if before is not None and _is_valid(before) else source
        raise ConfigError(f"{culprit}: {one_line(error)}") from error
    config.out, config.model.backbone.weights = map(os.path.expanduser, (config.out, config.model.backbone.weights))
    if config.data.root is not None:
        config.data.root = os.path.expanduser(config.data.root)
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
