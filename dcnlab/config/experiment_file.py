"""Experiment files, `extends:` chains, JSON args files and key=value, merged into the checked tree of `config`."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcnlab.config import packaged
from dcnlab.config.schema import Config
from dcnlab.io import json_file, yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import check_encodable, nearest, one_line, shown
from dcnlab.io.yaml_file import read_yaml

WHERE = (
    *("name", "out", "id", "logger", "sweep"),
    *(f"trainer.{key}" for key in ("threads", "progress", "checkpoint_every", "rendezvous_minutes")),
)
"""Keys that say what a run is called, where and how visibly it happens; not what it computes."""
MOST_REFERENCES = 12
"""Places where `${...}` stands for another key."""

MOST_EXTENDED = 20
"""Files that one another extend; ours are three."""

# OmegaConf's resolvers, such as oc.env, would put the environment's secrets into config.yaml and onto wandb.
_OF_THE_TREE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_.]*\}")


def load(experiment: str, args: Sequence[str] = (), parameters: dict[str, Any] | None = None) -> Config:
    """Read an experiment.

    Precedence, weakest first: defaults, the `extends:` chain, the file, sweep parameters, key=value.

    Args:
        experiment: path or packaged name of the experiment file.
        args: what follows it on the command line: `key=value`, and paths of JSON files with a sweep's parameters, such
            as wandb's `${args_json_file}`. Under a wandb agent, `${args_no_hyphens}` gives the parameters as key=value.
        parameters: a sweep's parameters, dotted or nested, in place of a JSON file.

    Raises:
        ConfigError: anything in it that the user can mend.
    """
    path = packaged.find("experiments", experiment)
    tree = OmegaConf.structured(Config)
    named = False
    for file, layer in chain(path):
        named = named or "name" in layer
        apply(tree, layer, str(file))
    if not named:
        apply(tree, {"name": path.stem}, str(path))
    # The config.yaml of a sweep's run is an experiment too, and its repetition a run of the same parameters.
    recorded = {key: OmegaConf.select(tree, key) for key in tree.sweep}
    swept = dict(flatten(parameters or {}))
    apply(tree, swept, "sweep")
    swept = recorded | swept
    for arg in args:
        if not is_override(arg):
            file_parameters = dict(flatten(read_json(arg)))
            apply(tree, file_parameters, arg)
            swept |= file_parameters
    words = [arg for arg in args if is_override(arg)]
    if parameters is None and len(words) == len(args):
        agents, words = _agents_parameters(words)
        apply(tree, agents, "the sweep's parameters")
        swept |= dict(flatten(agents))
    before = copy.deepcopy(tree)
    overrides = dict(map(parse_override, words))
    for key, value in overrides.items():
        apply(tree, {key: value}, "command line")
    # A parameter that the command line overrules is recorded as it was used.
    used = dict(flatten(overrides))
    tree.sweep = {key: used.get(key, value) for key, value in swept.items()}
    return checked(tree, str(path), before)


def load_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder, from its `config.yaml`, with key=value overrides.

    Raises:
        ConfigError: there is no such run, or its file does not fit the tree.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.yaml")
    tree = OmegaConf.structured(Config)
    apply(tree, read_yaml(path), str(path))
    before = copy.deepcopy(tree) if overrides else None
    for key, value in map(parse_override, overrides):
        apply(tree, {key: value}, "command line")
    return checked(tree, str(path), before)


def of_text(text: str, source: str) -> Config:
    """The config whose `to_yaml` this is.

    Args:
        text: YAML.
        source: where it is from, for messages.

    Raises:
        ConfigError: it does not fit the tree.
    """
    tree = OmegaConf.structured(Config)
    apply(tree, yaml_file.mapping(text, source), source)
    return checked(tree, source)


def to_yaml(config: Config) -> str:
    """The whole tree as YAML that `load_run` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def settings(config: Config) -> dict[str, Any]:
    """What a run computes: the tree as dotted keys, without `WHERE`."""
    leaves = dict(flatten(dataclasses.asdict(config)))
    return {key: value for key, value in leaves.items() if not any(f"{key}.".startswith(f"{w}.") for w in WHERE)}


def changed(found: dict[str, Any]) -> dict[str, Any]:
    """Of `settings`, those that are not the defaults: a key that is new, at its default, alters no run's identity."""
    defaults = settings(Config())
    return {key: value for key, value in found.items() if key not in defaults or value != defaults[key]}


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_override(arg: str) -> bool:
    """Whether an argument is key=value; an existing file is a file, whatever its path has in it."""
    return "=" in arg and not os.path.isfile(arg)


def parse_override(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value of a key that takes text is that text, any other is read as YAML.

    Raises:
        ConfigError: it is neither, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: not of the form key=value")
    hint = _hint(key)
    if hint == str | None and value in ("", "null"):
        return key, None
    if hint in (str, str | None):
        return key, value
    if value == "None" and type(None) in typing.get_args(hint):  # as Python writes null
        return key, None
    try:
        return key, yaml_file.parse_value(value)
    except ValueError as error:
        raise ConfigError(f"{text[:100]}: the value is not YAML: {error}") from error


def _agents_parameters(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Tell a sweep's parameters, which a wandb agent has written as key=value, from what else stands in the command.

    The agent writes Python's `str` of a value, and leaves the values themselves in the file WANDB_SWEEP_PARAM_PATH.

    Returns:
        The parameters, and the other words; without an agent there are no parameters.
    """
    if not os.environ.get("WANDB_SWEEP_ID"):
        return {}, list(words)
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH", "")
    known = _agents_file(Path(path)) if os.path.isfile(path) else None
    parameters: dict[str, Any] = {}
    others = []
    for word in words:
        key, _, text = word.partition("=")
        if known is not None and key in known and text == str(known[key]):
            parameters[key] = known[key]
        elif known is None and not any(f"{key}.".startswith(f"{where}.") for where in WHERE):
            parameters[key] = _of_python(key, text)
        else:
            others.append(f"{key}=null" if known is None and text == "None" else word)
    return parameters, others


def _agents_file(path: Path) -> dict[str, Any]:
    tree = read_yaml(path)
    return {key: spec["value"] for key, spec in tree.items() if isinstance(spec, dict) and "value" in spec}


def _of_python(key: str, text: str) -> Any:
    """The value whose `str` in Python is `text`."""
    if text == "None":
        return None
    if text[:1] in ("[", "{"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass  # written by hand, as YAML
    return parse_override(f"{key}={text}")[1]


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON file whose top is an object.

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


def chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and those that it extends, the farthest first.

    Raises:
        ConfigError: one is missing, they extend one another in a circle, or they are more than `MOST_EXTENDED`.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if len(layers) == MOST_EXTENDED:
            raise ConfigError(f"{path}: extends a chain of more than {MOST_EXTENDED} files; {current} is one too many")
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
    if not os.path.isfile(path):  # unlike Path's own, also where the name is too long for a file
        beside = path.parent.glob("*.yaml") if os.path.isdir(path.parent) else ()
        near = nearest(base, [other.name for other in beside])
        raise ConfigError(f"{file}: extends {base}, and there is no such file" + (f"; nearest: {near}" if near else ""))
    return path


def apply(tree: DictConfig, layer: dict[str, Any], source: str) -> None:
    """Set `layer`, nested or dotted, on the typed tree.

    Raises:
        ConfigError: no such key, or a value of the wrong type; names `source`, the key and what it takes.
    """
    for key, value in _leaves(layer, source):
        hint = _hint(key)
        if dataclasses.is_dataclass(hint) and value is None:  # a section whose keys are all left out
            continue
        if any("${" in _OF_THE_TREE.sub("", text) for text in _texts(value)):
            raise ConfigError(
                f"{source}: {key} is {shown(value)}; ${{...}} stands for another key of the experiment, such as "
                "${data.root}, and for nothing else: the environment is not read"
            )
        for text in _texts(value):
            try:
                check_encodable(text, f"{source}: {key}")
            except ValueError as error:
                raise ConfigError(str(error)) from error
        try:
            # OmegaConf takes a list whose values are lists or mappings, whatever it is a list of.
            if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
                raise ValueError(f"{key} is nested")
            OmegaConf.update(tree, key, value)
        except (OmegaConfBaseException, ValueError, OverflowError) as error:
            raise ConfigError(f"{source}: {key} is {shown(value)}; it must be {describe(hint)}") from error


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(inner)


def checked(tree: DictConfig, source: str, before: DictConfig | None = None) -> Config:
    """The tree as plain dataclasses, every section's own checks passed.

    Args:
        tree: to check.
        source: the file to blame for what does not hold.
        before: the tree without the command line, which is to blame where this one holds.

    Raises:
        ConfigError: a value out of its range, or an interpolation of what is not there.
    """
    if sum(text.count("${") for text in _texts(OmegaConf.to_container(tree, resolve=False))) > MOST_REFERENCES:
        raise ConfigError(f"{source}: holds more than {MOST_REFERENCES} ${{...}}, which may multiply without end")
    try:
        config = typing.cast(Config, OmegaConf.to_object(tree))
    except (ConfigError, OmegaConfBaseException) as error:
        blamed = "command line" if before is not None and _holds(before) else source
        raise ConfigError(f"{blamed}: {one_line(error)}") from error
    config.out, config.model.backbone.weights = map(os.path.expanduser, (config.out, config.model.backbone.weights))
    if config.data.root is not None:
        config.data.root = os.path.expanduser(config.data.root)
    if config.trainer.max_steps is None and config.trainer.max_epochs is None:
        raise ConfigError(f"{source}: trainer.max_steps and trainer.max_epochs are both null; state one of them")
    return config


def _holds(tree: DictConfig) -> bool:
    try:
        OmegaConf.to_object(tree)
    except (ConfigError, OmegaConfBaseException):
        return False
    return True


def check_paths(config: Config) -> None:
    """Check that what the config points at is there.

    Raises:
        ConfigError: it is not.
    """
    root, weights = config.data.root, config.model.backbone.weights
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"data.root is {root!r}, and there is no such folder" + _nearest_path(Path(root)))
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise ConfigError(
            f"model.backbone.weights is {weights!r}; it must be none, imagenet or a file that is there"
            + _nearest_path(Path(weights))
        )


def _nearest_path(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"; nearest: {path.parent / near}" if near else ""


def _leaves(layer: dict[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values down to where the typed tree ends; a key that is not in it raises."""
    for key, value in layer.items():
        full = f"{prefix}{key}"
        hint = _hint(full)
        if hint is None:
            raise ConfigError(f"{source}: no such key {full}" + _near_key(full))
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            yield from _leaves(value, source, f"{full}.")
        else:
            yield full, value


def _hint(key: str) -> Any:
    """The type of a dotted key of the tree, or None where there is no such key."""
    hint: Any = Config
    for part in key.split("."):
        fields = _hints(hint)
        if part not in fields:
            return None
        hint = fields[part]
    return hint


@functools.cache
def _hints(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}


def keys(section: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the tree, sections included."""
    found = []
    for name, hint in _hints(section).items():
        found.append(f"{prefix}{name}")
        if dataclasses.is_dataclass(hint):
            found += keys(typing.cast(type, hint), f"{prefix}{name}.")
    return found


def _near_key(key: str) -> str:
    known = keys()
    near = nearest(key, known)
    if near is None:  # the right name in the wrong section, or with none
        near = next((k for k in known if k.rpartition(".")[2] == nearest(key.rpartition(".")[2], _tails(known))), None)
    return f"; nearest: {near}" if near else f"; there are: {', '.join(k for k in known if '.' not in k)}"


def _tails(known: list[str]) -> list[str]:
    return [key.rpartition(".")[2] for key in known]


def describe(hint: Any) -> str:
    """A type as a user would say it."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in plain:
        return plain[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in inner)
    if origin is list:
        return f"a list of {describe(inner[0]).removeprefix('a ')}s" if inner[0] is not str else "a list of texts"
    if origin is tuple:
        return f"a list of {len(inner)} numbers"
    if dataclasses.is_dataclass(hint):
        return f"a section with the keys {', '.join(field.name for field in dataclasses.fields(hint))}"
    return "a mapping of keys"
