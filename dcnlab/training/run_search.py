"""Finds run folders: by the path that a user gives, around a file, and below folders."""

from __future__ import annotations

from pathlib import Path

from dcnlab.config import packaged
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest
from dcnlab.training.run_folder import RunFolder


def find(name: str) -> Path:
    """A run folder by its path.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(name)
    if RunFolder(path).config.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{name} is not a run folder: it has no config.yaml{_runs_inside(path)}")
    if path.is_file():
        run = containing(path)
        raise ConfigError(f"{name} is a file, not a run folder" + (f"; nearest: {run}" if run else ""))
    kind = packaged.kind_of(name)
    if kind is not None:
        what, command = packaged.COMMANDS[kind]
        raise ConfigError(f"{name} is {what}, not a run folder: {command} {name}")
    folders = [other for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
    near = nearest(name, [str(path.parent / other.name) for other in folders])
    raise ConfigError(f"no such run: {name}" + (f"; nearest: {near}" if near else ""))


def containing(path: Path) -> Path | None:
    """The run folder that holds a file, in itself or in a folder of it; None: no run does."""
    return next((folder for folder in list(path.parents)[:2] if RunFolder(folder).config.is_file()), None)


def _runs_inside(folder: Path) -> str:
    """The end of an error about a folder of runs: the newest of them."""
    marks = [mark for depth in ("*", "*/*") for mark in folder.glob(f"{depth}/config.yaml")]
    runs = [str(mark.parent) for mark in sorted(marks, key=lambda mark: mark.stat().st_mtime, reverse=True)]
    if not runs:
        return ""
    return f"; the newest of the {len(runs)} runs in it: {', '.join(runs[:3])}"


def discover(roots: list[Path]) -> list[Path]:
    """Every run folder below `roots`: each one that holds a config.yaml."""
    folders = {
        path.parent
        for root in roots
        for path in root.glob("**/config.yaml")
        if "wandb" not in path.relative_to(root).parts
    }
    return sorted(folders)
