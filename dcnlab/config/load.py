"""Gives the checked `Config` of an experiment, of a run folder, and of a config that was kept as text or settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcnlab.config import outside
from dcnlab.config.experiment import Experiment
from dcnlab.config.experiment_files import RUN_CONFIG
from dcnlab.config.overrides import COMMAND_LINE, parse_override, set_keys
from dcnlab.config.schema import Config
from dcnlab.config.tree import checked, drop_expected_of_another_run, new_tree, plain
from dcnlab.config.unread import check_overrides
from dcnlab.io import yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.yaml_file import read_yaml


def load_experiment(
    experiment: str,
    args: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    allow: Sequence[outside.Allowed] = (),
    default_root: str | None = None,
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
        default_root: data.root of an experiment on files that states none, for callers that read no data.

    Raises:
        ConfigError: anything in it that the user can mend.
    """
    return Experiment(experiment).config(args, parameters, allow, default_root)


def load_run(
    folder: Path, overrides: Sequence[str] = (), allow: Sequence[outside.Allowed] = (), trains: bool = False
) -> Config:
    """The config of a run folder, to build from: its `config.yaml`, with key=value overrides.

    Args:
        folder: of the run.
        overrides: key=value. A class from outside that they name is allowed.
        allow: classes from outside that may be imported, see `outside.admit`.
        trains: whether the network is trained, so that the overrides may change the training.

    Raises:
        ConfigError: there is no such run, its file does not fit the schema, it names a class that is not allowed, or
            nothing reads an override.
    """
    config = read_run(folder, overrides)
    if overrides:
        check_overrides(read_run(folder), config, trains)
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
    kept = read_yaml(path)

    def before() -> DictConfig:
        """The tree without the command line."""
        tree = new_tree()
        set_keys(tree, kept, str(path))
        return tree

    tree = before()
    if not overrides:
        return checked(tree, str(path))
    as_stated = plain(tree)
    for key, value in map(parse_override, overrides):
        set_keys(tree, {key: value}, COMMAND_LINE)
    drop_expected_of_another_run(tree, as_stated)
    return checked(tree, str(path), before)


def from_yaml(text: str, source: str) -> Config:
    """The config whose `to_yaml` is `text`.

    Args:
        text: YAML.
        source: where it is from, for messages.

    Raises:
        ConfigError: it does not fit the schema.
    """
    tree = new_tree()
    set_keys(tree, yaml_file.mapping(text, source), source)
    return checked(tree, source)


def from_settings(settings: dict[str, Any], source: str, allow: Sequence[outside.Allowed] = ()) -> Config:
    """The config of a checkpoint, from the settings by dotted key that it holds.

    Args:
        settings: as from `identity.settings`.
        source: where they are from, for messages.
        allow: classes from outside that may be imported, see `outside.admit`.

    Raises:
        ConfigError: they do not fit the schema, or name a class that is not allowed.
    """
    tree = new_tree()
    set_keys(tree, settings, source)
    if tree.trainer.max_steps is None and tree.trainer.max_epochs is None:  # of a task that was built without a run
        tree.trainer.max_epochs = 1
    config = checked(tree, source)
    outside.admit(config, allow, source)
    return config


def to_yaml(config: Config) -> str:
    """The whole config as YAML that `load_run` and `from_yaml` read back."""
    settings = dataclasses.asdict(config, dict_factory=_plain_texts)
    return OmegaConf.to_yaml(OmegaConf.create(settings))


def _plain_texts(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a section; a name that carries its class from outside becomes the name alone."""
    return {key: str(value) if isinstance(value, str) else value for key, value in fields}
