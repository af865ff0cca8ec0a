"""Folders of the paper's data sets, by environment variables that the packaged sweeps name."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = {
    "DCNLAB_VOC": "VOCdevkit",
    "DCNLAB_COCO": "coco",
    "DCNLAB_CITYSCAPES": "cityscapes",
    "DCNLAB_CAMVID": "camvid",
    "DCNLAB_CARDS": "cards",
    "DCNLAB_FLOWERS": "flowers",
}
"""By the variable: the folder below `DATASETS` that is taken where the variable is not set."""
DATASETS = "DCNLAB_DATASETS"
"""Environment variable with the folder of all data sets; `datasets` where it is not set, as in detectron2."""


def folder_of(root: str) -> str:
    """The folder that a value of `data.root` stands for.

    wandb's agent writes a variable's own name where `${envvar:NAME}` is not set, so a name stands for its folder.

    Args:
        root: a path, or a variable of `FOLDERS`.

    Returns:
        The path; the variable's name where it is not set and there is no such folder.
    """
    if root not in FOLDERS:
        return os.path.expanduser(root)
    usual = usual_folder(root)
    return os.path.expanduser(os.environ.get(root) or (str(usual) if usual.is_dir() else root))


def usual_folder(variable: str) -> Path:
    """The folder that is taken where a variable of `FOLDERS` is not set."""
    return Path(os.path.expanduser(os.environ.get(DATASETS) or "datasets")) / FOLDERS[variable]
