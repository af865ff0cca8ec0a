"""Reads and checks wandb's sweep files, without wandb."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import search, sweep_command
from dcnlab.ablations.sweeps.distributions import distribution
from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.config import packaged
from dcnlab.config.experiment import Experiment
from dcnlab.config.keys import ARM
from dcnlab.config.value_checks import choose
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
    """Keys that have no effect here."""
    logger: tuple[str, ...] = ()
    """Its `project` and `entity`, as key=value of the trials."""
    environment: tuple[tuple[str, str], ...] = ()
    """Names and values of environment variables that its command sets."""
    before: tuple[str, ...] = ()
    """The words of its command before `dcnlab fit`."""

    @property
    def name(self) -> str:
        """The folder of its runs."""
        return self.path.stem

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment that it sweeps, whose files all its trials share.

        Raises:
            ConfigError: a file is missing or wrong.
        """
        return Experiment(self.program)

    @property
    def id(self) -> str:
        """A digest of the file's content, which its runs carry on wandb; no ID that wandb's server would know."""
        return digest([self.name, self.program, self.overrides, self.method, self.parameters])[:8]

    @property
    def swept(self) -> list[str]:
        """The parameters that take more than one value."""
        return [
            name
            for name, spec in self.parameters.items()
            if spec["distribution"] != "constant" and len(spec.get("values", (0, 1))) > 1
        ]

    def sets(self, key: str, names: Iterable[str]) -> bool:
        """Whether a dotted key of a trial is set by one of the parameters `names`."""
        others = [name for name in self.parameters if name != ARM]
        if any(f"{key}.".startswith(f"{name}.") for name in names if name != ARM):
            return True
        return ARM in names and not any(f"{key}.".startswith(f"{name}.") for name in others)


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
            f"{error}; ${{...}} in a list needs quotes: {sweep_command.USUAL}" if _holds_macros(path) else str(error)
        ) from error
    packaged.check_kind("sweeps", name, tree)
    try:
        return _sweep(path, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


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
    parameters = {name: distribution(name, spec) for name, spec in _unnest(_mapping(tree, "parameters", needed=True))}
    metric = _mapping(tree, "metric")
    _check_keys("metric.", metric, METRIC_KEYS)
    if "goal" in metric:
        choose("metric.goal", str(metric["goal"]), ("maximize", "minimize"))
    if not isinstance(metric.get("name"), str | None):
        raise ConfigError(f"metric.name is {metric['name']!r}; it must be the name of one metric")
    run_cap = tree.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise ConfigError(f"run_cap is {run_cap!r}; it must be a whole number above 0")
    program, overrides, before = sweep_command.parse(tree)
    variables = tuple((match[1], match[2]) for word in before if (match := sweep_command.VARIABLE.fullmatch(word)))
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
        notes=tuple(f"{path}: {key} has no effect without wandb's server" for key in ignored),
        logger=_logger(tree),
        environment=variables,
        before=tuple(before),
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
