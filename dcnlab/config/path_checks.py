"""Checks that the paths of an experiment exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dcnlab.config import data_roots, names
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest


def check_paths(config: Config, of_run: bool = False) -> None:
    """Check that the folder and the file that an experiment names exist.

    Args:
        config: of the experiment.
        of_run: whether a run folder holds it, whose data may have moved since.

    Raises:
        ConfigError: one does not; names the nearest.
    """
    moved = "; where the data moved, add data.root=FOLDER to the command" if of_run else ""
    root, weights = config.data.root, config.model.backbone.weights
    if root in data_roots.FOLDERS and not Path(root).is_dir():
        raise ConfigError(
            f"data.root is {root}, which is not set, and there is no folder {data_roots.usual_folder(root)}; "
            f"set {root} or {data_roots.DATASETS}, or state data.root=FOLDER"
        )
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"data.root is {root!r}, {_missing_folder(Path(root))}{moved}")
    if weights not in ("none", *names.IMAGENET) and not Path(weights).is_file():
        raise ConfigError(
            f"model.backbone.weights is {weights!r}; it must be none, {', '.join(names.IMAGENET)} or a file that is "
            "there" + _nearest_path(Path(weights), Path.is_file)
        )


def _missing_folder(path: Path) -> str:
    """Say what is in the place of a folder, and which folder is nearest."""
    if path.is_file():
        return f"which is a file; it must be the folder of a data set; nearest: {path.parent}"
    return "and there is no such folder" + _nearest_path(path, Path.is_dir)


def _nearest_path(path: Path, is_of_kind: Callable[[Path], bool]) -> str:
    siblings = [other.name for other in path.parent.iterdir() if is_of_kind(other)] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"; nearest: {path.parent / near}" if near else ""
