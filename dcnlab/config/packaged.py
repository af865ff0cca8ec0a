"""Finds the packaged experiments and sweeps: next to `dcnlab/` in a checkout, inside the package in a wheel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest

COMMANDS = {"experiments": ("an experiment", "dcnlab fit"), "sweeps": ("a sweep", "dcnlab sweep")}
"""By kind: what a file of it is, and the command that runs it."""
PACKAGE = Path(__file__).resolve().parents[1]


def folder(name: str) -> Path:
    """The folder `name`: experiments or sweeps.

    Raises:
        FileNotFoundError: neither the package nor the checkout has it.
    """
    for parent in (PACKAGE / "_files", PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(
        f"no folder {name} in {PACKAGE / '_files'} or {PACKAGE.parent}: the installation is incomplete"
    )


def names(kind: str) -> list[str]:
    """Names that `find(kind, ...)` takes without a path: relative to the packaged folder, without `.yaml`."""
    root = folder(kind)
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def packaged(kind: str, name: str) -> Path | None:
    """The packaged file of a name, with or without `.yaml` and the folder's own name before it; None: there is none."""
    root = folder(kind)
    for candidate in (root / name, root / f"{name}.yaml", root.parent / name):
        if os.path.isfile(candidate):  # Path.is_file raises where the name is too long for a file
            return candidate
    return None


def kind_of(name: str) -> str | None:
    """The kind of which there is a packaged file of this name: experiments, sweeps or None."""
    return next((kind for kind in COMMANDS if packaged(kind, name) is not None), None)


def check_kind(kind: str, name: str, tree: Mapping[str, Any]) -> None:
    """Check that what a YAML file holds is an experiment, or a sweep.

    Raises:
        ConfigError: it is the other; names the command that takes it.
    """
    is_sweep = "parameters" in tree and bool({"method", "program", "command"} & set(tree))
    is_experiment = not is_sweep and bool({"extends", "task", "data", "model", "optim", "trainer"} & set(tree))
    if kind == "experiments" and is_sweep:
        wrong_kind(name, "sweeps", kind)
    if kind == "sweeps" and is_experiment:
        wrong_kind(name, "experiments", kind)


def wrong_kind(name: str, kind: str, wanted: str) -> NoReturn:
    """Raise the error of a file of another kind than the one that is wanted.

    Raises:
        ConfigError: always; names the command that takes the file, and the nearest of the right kind.
    """
    what, command = COMMANDS[kind]
    near = [known for known in names(wanted) if Path(known).name == Path(name).stem]
    hint = f"; {wanted}: {', '.join(near)}" if near else ""
    raise ConfigError(f"{name} is {what}, not {COMMANDS[wanted][0]}: {command} {name}{hint}")


def find(kind: str, name: str) -> Path:
    """The YAML file that a user calls `name`.

    Args:
        kind: experiments or sweeps.
        name: a path; or a name in the packaged folder, with or without `.yaml` and the folder's own name before it.

    Raises:
        ConfigError: there is none; names the nearest file there is, or what else has the name.
    """
    path = Path(name)
    candidate = packaged(kind, name) if not os.path.isfile(path) else path
    if candidate is not None:
        return candidate
    if "=" in name:
        raise ConfigError(f"{name} is a setting; {COMMANDS[kind][0]} comes before it, such as {names(kind)[0]}")
    if (path / "config.yaml").is_file():
        raise ConfigError(f"{name} is a run folder, not {COMMANDS[kind][0]}; its settings are {path / 'config.yaml'}")
    other = kind_of(name)
    if other is not None:
        wrong_kind(name, other, kind)
    beside = [str(path.parent / other.name) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    near = nearest(name, [*beside, *names(kind)]) or nearest(path.stem, [Path(known).stem for known in names(kind)])
    hint = f"nearest: {near}" if near else f"`dcnlab list {kind}` prints the packaged ones"
    missing = f"{name} is a folder, not {COMMANDS[kind][0]}" if path.is_dir() else f"no such file: {name}"
    raise ConfigError(f"{missing}; {hint}")
