"""Checks that the paths of an experiment exist."""

from __future__ import annotations

from pathlib import Path

from dcnlab.config import data_roots, names
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest


def check_paths(config: Config) -> None:
    """Check that the folder and the file that an experiment names exist.

    Raises:
        ConfigError: one does not; names the nearest.
    """
    root, weights = config.data.root, config.model.backbone.weights
    if root in data_roots.FOLDERS and not Path(root).is_dir():
        raise ConfigError(
            f"data.root is {root}, which is not set, and there is no folder {data_roots.usual_folder(root)}; "
            f"set {root} or {data_roots.DATASETS}, or state data.root=FOLDER"
        )
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"data.root is {root!r}, and there is no such folder" + _nearest_path(Path(root)))
    if weights not in ("none", *names.IMAGENET) and not Path(weights).is_file():
        raise ConfigError(
            f"model.backbone.weights is {weights!r}; it must be none, {', '.join(names.IMAGENET)} or a file that is "
            "there" + _nearest_path(Path(weights))
        )


def _nearest_path(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"; nearest: {path.parent / near}" if near else ""
