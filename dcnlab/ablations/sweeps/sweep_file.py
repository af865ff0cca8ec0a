"""wandb's sweep files, read without wandb: what they may say, and which trials they mean."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import search
from dcnlab.config import identity, packaged
from dcnlab.config.load import load_experiment
from dcnlab.config.overrides import parse_override
from dcnlab.config.schema import Config
from dcnlab.config.validation import choose
from dcnlab.io import yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import nearest
from dcnlab.io.yaml_file import read_yaml

KEYS = (
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
)  # fmt: skip
METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
MACROS = ("env", "interpreter", "program", "args_json_file", "args_no_hyphens")
"""Of wandb's macros, those that `dcnlab fit` has a use for."""

MOST_TRIALS = 10_000
"""Of a sweep: each one's config is checked before the first trial starts."""

_COMMAND = '["${env}", dcnlab, fit, "${program}", "${args_json_file}"]'
"""As YAML that can be pasted: a brace in a list needs quotes."""
_INTERPRETER = re.compile(r"\$\{(env|interpreter)\}|(.*/)?env|(.*/)?python[0-9.]*|-m|(.*/)?dcnlab")
"""Words before `fit` that say which program runs; here it is this one."""
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Sweep:
    """A sweep file."""

    path: Path
    title: str
    """Its `name`, for people; the run folders go by the file's own name."""
    program: str
    """The experiment, as the file says it."""
    overrides: tuple[str, ...]
    """key=value that stand in its command."""
    method: str
    parameters: dict[str, dict[str, Any]]
    """Dotted name to distribution."""
    run_cap: int | None
    metric: str | None
    goal: str | None
    """Of the metric, as the file says it: maximize | minimize."""
    notes: tuple[str, ...]
    """What in the file has no effect here, or another one under wandb's agent."""
    logger: tuple[str, ...] = ()
    """Its `project` and `entity`, as key=value of the trials."""
    environment: tuple[tuple[str, str], ...] = ()
    """Names and values of environment variables that its command sets."""

    @property
    def name(self) -> str:
        """The folder of its runs."""
        return self.path.stem

    @property
    def id(self) -> str:
        """What its offline wandb runs carry as their sweep: the same whenever the file says the same."""
        return digest([self.name, self.program, self.overrides, self.method, self.parameters])[:8]

    @property
    def swept(self) -> list[str]:
        """The parameters that take more than one value."""
        return [
            name
            for name, spec in self.parameters.items()
            if spec["distribution"] != "constant" and len(spec.get("values", (0, 1))) > 1
        ]


@dataclass(frozen=True)
class Trial:
    """One point of a sweep."""

    parameters: dict[str, Any]
    config: Config

    @property
    def id(self) -> str:
        """The run folder's name: a hash of what the trial computes and of what the sweep set in it."""
        return digest([self.parameters, identity.changed(identity.settings(self.config))])[:12]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.out) / self.config.name / self.id

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.parameters.items()) or "the only one"


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


def _holds_macros(path: Path) -> bool:
    try:
        return b"${" in read_bytes(path, yaml_file.LARGEST)
    except (OSError, ValueError):
        return False


def read(name: str) -> Sweep:
    """Read and check a sweep file.

    Args:
        name: path, or the name of a packaged sweep.

    Raises:
        ConfigError: wandb would not take the file, or `dcnlab fit` could not run it; one line that says where.
    """
    path = packaged.find("sweeps", name)
    try:
        tree = read_yaml(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; ${{...}} in a list needs quotes: {_COMMAND}" if _holds_macros(path) else str(error)
        ) from error
    try:
        return _sweep(path, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def trials(sweep: Sweep, overrides: Sequence[str] = (), limit: int | None = None) -> list[Trial]:
    """Every trial of a sweep, each one's config checked; equal ones once.

    Args:
        sweep: the file.
        overrides: key=value of the command line; over a swept parameter it puts that one value in place of all.
        limit: how many points a random search without `run_cap` draws.

    Raises:
        ConfigError: there are more than `MOST_TRIALS`, or a trial's config does not hold; names the trial.
    """
    fixed = dict(map(parse_override, [*sweep.overrides, *overrides]))
    found: dict[str, Trial] = {}
    for point in _points(sweep, limit):  # made one by one; see MOST_TRIALS
        one = trial(sweep, {name: fixed.get(name, value) for name, value in point.items()}, overrides)
        found.setdefault(one.id, one)
    return list(found.values())


def trial(sweep: Sweep, parameters: dict[str, Any], overrides: Sequence[str] = ()) -> Trial:
    """The trial of one point.

    Args:
        sweep: the file.
        parameters: the point, dotted or nested.
        overrides: key=value of the command line.

    Raises:
        ConfigError: its config does not hold; names the trial.
    """
    arguments = [f"name={sweep.name}", *sweep.logger, *sweep.overrides, *overrides]
    try:
        config = load_experiment(sweep.program, arguments, parameters)
    except ConfigError as error:
        described = " ".join(f"{key}={value}" for key, value in parameters.items())
        raise ConfigError(f"{sweep.path}: trial {described}: {error}") from error
    return Trial(config.sweep, config)


def _points(sweep: Sweep, limit: int | None) -> Iterator[dict[str, Any]]:
    grid = sweep.method == "grid"
    points = search.grid_size(sweep.parameters) if grid else None
    count = sweep.run_cap or (points if grid else limit)
    if count is None:
        raise ConfigError(f"{sweep.path}: random search has no end of its own; state run_cap, or --limit")
    if points is not None:
        count = min(count, points)
    if count > MOST_TRIALS:
        what = "its grid has" if grid else "run_cap or --limit asks for"
        raise ConfigError(f"{sweep.path}: {what} {count} trials; allowed are {MOST_TRIALS}; run_cap states fewer")
    seed = int(digest(sweep.parameters)[:16], 16)
    found = search.grid(sweep.parameters) if grid else search.random(sweep.parameters, seed)
    return itertools.islice(found, count)


def _sweep(path: Path, tree: dict[str, Any]) -> Sweep:
    _check_keys("", tree, KEYS)
    method = tree.get("method")
    if method is None:
        raise ConfigError("method is missing; choose from: grid, random")
    if method in ("bayes", "custom"):
        raise ConfigError(
            f"method is {method!r}, which needs wandb's server (`wandb sweep {shlex.quote(str(path))}`); "
            "here: grid, random"
        )
    choose("method", str(method), ("grid", "random"))
    parameters = {
        name: search.distribution(name, spec) for name, spec in _unnest(_mapping(tree, "parameters", needed=True))
    }
    metric = _mapping(tree, "metric")
    _check_keys("metric.", metric, METRIC_KEYS)
    if "goal" in metric:
        choose("metric.goal", str(metric["goal"]), ("maximize", "minimize"))
    if not isinstance(metric.get("name"), str | None):
        raise ConfigError(f"metric.name is {metric['name']!r}; it must be the name of one metric")
    run_cap = tree.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise ConfigError(f"run_cap is {run_cap!r}; it must be a whole number above 0")
    program, overrides, before = _command(tree)
    variables = tuple((match[1], match[2]) for word in before if (match := _VARIABLE.fullmatch(word)))
    ignored = [key for key in ("early_terminate", "scheduler", "controller") if key in tree]
    sweep = Sweep(
        path=path,
        title=str(tree.get("name", path.stem)),
        program=program,
        overrides=overrides,
        method=str(method),
        parameters=parameters,
        run_cap=run_cap,
        metric=metric.get("name"),
        goal=metric.get("goal"),
        notes=(
            *(f"{path}: {key} has no effect without wandb's server" for key in ignored),
            *(f"{path}: {note}" for note in _command_notes(tree, before)),
        ),
        logger=_logger(tree),
        environment=variables,
    )
    if method == "grid":
        search.grid_size(parameters)  # a distribution that a grid cannot list is an error of the file
    return sweep


def _check_keys(prefix: str, tree: dict[str, Any], known: Sequence[str]) -> None:
    for key in tree:
        if key not in known:
            near = nearest(key, known)
            hint = f"nearest: {prefix}{near}" if near else f"there are: {', '.join(known)}"
            raise ConfigError(f"no such key {prefix}{key}; {hint}")


def _mapping(tree: dict[str, Any], key: str, needed: bool = False) -> dict[str, Any]:
    value = tree.get(key)
    if value is None and not needed:
        return {}
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{key} is {'missing' if value is None else repr(value)}; it must be a mapping")
    return value


def _unnest(parameters: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested `parameters:` as dotted names."""
    flat = []
    for key, spec in parameters.items():
        name = f"{prefix}{key}"
        if isinstance(spec, dict) and "parameters" in spec:
            _check_keys(f"parameters.{name}.", spec, ("parameters",))
            flat += _unnest(_mapping(spec, "parameters", needed=True), f"{name}.")
        else:
            flat.append((name, spec))
    return flat


def _logger(tree: dict[str, Any]) -> tuple[str, ...]:
    """A file's `project` and `entity`, as key=value."""
    for key in ("project", "entity"):
        if not isinstance(tree.get(key), str | None):
            raise ConfigError(f"{key} is {tree[key]!r}; it must be text")
    return tuple(f"logger.{key}={tree[key]}" for key in ("project", "entity") if tree.get(key))


def _command_notes(tree: dict[str, Any], before: Sequence[str]) -> list[str]:
    """What wandb's agent would do otherwise with the command.

    Args:
        tree: the file.
        before: the words of its command before `fit`.
    """
    if "command" not in tree:
        return [
            f"command is missing; trials run by dcnlab fit here, but wandb's agent would run `/usr/bin/env python "
            f"{tree.get('program')} --NAME=VALUE`; write command: {_COMMAND}"
        ]
    dropped = [word for word in before if not _INTERPRETER.fullmatch(word) and not _VARIABLE.fullmatch(word)]
    if not dropped:
        return []
    words = shlex.join(dropped)
    return [
        f"command: {words} before dcnlab fit is left out here; processes and machines of a trial are trainer.devices "
        "and trainer.num_nodes"
    ]


def _command(tree: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str]]:
    """The experiment, the key=value, and the words before `fit` of a sweep's command.

    Raises:
        ConfigError: the command does not call `dcnlab fit` with the sweep's parameters.
    """
    program = tree.get("program")
    command = tree.get("command", ["dcnlab", "fit", "${program}", "${args_json_file}"])
    if not isinstance(command, list) or not command:
        raise ConfigError(f"command is {command!r}; it must be a list: command: {_COMMAND}")
    words = [str(word) for word in command]
    for word in words:
        macro = re.fullmatch(r"\$\{(.*)\}", word)
        if macro and macro[1] not in MACROS:
            raise ConfigError(f"command: {word} is no argument of dcnlab fit; write command: {_COMMAND}")
    calls = [at for at in range(1, len(words)) if words[at] == "fit" and words[at - 1].endswith("dcnlab")]
    if not calls or not {"${args_json_file}", "${args_no_hyphens}"} & set(words):
        raise ConfigError(f"command must call dcnlab fit with the sweep's parameters: command: {_COMMAND}")
    experiment, *rest = words[calls[0] + 1 :]
    if experiment == "${program}":
        if not isinstance(program, str):
            raise ConfigError("program is missing; it names the experiment file")
        experiment = program
    overrides = [word for word in rest if not word.startswith("${")]
    for word in overrides:
        parse_override(word)
    return experiment, tuple(overrides), words[: calls[0] - 1]
