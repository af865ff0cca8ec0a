"""Loads the trained network of a run, without its data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcnlab.config import outside
from dcnlab.config.experiment_files import RUN_CONFIG
from dcnlab.config.load import load_run
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.tasks.task import Task
from dcnlab.training import checkpoint_file, resume_checks, run_search
from dcnlab.training.build_data import data_module
from dcnlab.training.build_network import checked_task_module
from dcnlab.training.run_folder import RunFolder


def load(
    run: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    allow: Sequence[outside.Allowed] | outside.Allowed = (),
    device: str | torch.device | None = None,
) -> Task:
    """Load the trained network of a run, in evaluation mode, without its data set.

    Args:
        run: the run folder.
        overrides: key=value upon its config, such as `test.score_floor=0.3`.
        allow: classes from outside dcnlab that the run may import: classes, or names of classes, modules or packages.
        device: where to put it; None is a GPU, if torch finds one and the run's `trainer.accelerator` is not cpu.

    Returns:
        The run's LightningModule, with its network, `model`, the names of its `classes`, and the run's `config`.

    Raises:
        ConfigError: there is no such run, its checkpoint is damaged or does not fit its config, or it names a class
            from outside that is not allowed.
    """
    folder = RunFolder(run_search.find(os.fspath(run)))
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {str(device)!r}, and torch finds no GPU here (see dcnlab doctor); take cpu")
    config = load_run(folder.path, overrides, outside.sequence(allow))
    config.model.backbone.weights = "none"  # the checkpoint holds them
    path, content = checkpoint_file.scored(folder)
    check_settings(config, path, content)
    task = checked_task_module(config, _classes(config, path, content))
    check_same_network(task.state_dict(), content["state_dict"], path, overrides)
    task.load_state_dict(content["state_dict"])
    if device is None:
        on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
        device = "cuda" if on_gpu else "cpu"
    return task.to(device).eval().requires_grad_(False)


def check_settings(config: Config, path: Path, content: dict[str, Any]) -> None:
    """Check that a checkpoint is of the training that the config states, as resuming does.

    Raises:
        ConfigError: another training wrote it; names the first key that differs.
    """
    record = content.get("dcnlab")
    if isinstance(record, dict) and isinstance(record.get("settings"), dict):
        anywhere = {"dcnlab": {**record, "batches": 0}}  # from within an epoch, it may be loaded by any number of ranks
        resume_checks.check_fits(anywhere, config, 1, path)


def check_same_network(
    fresh: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path, overrides: Sequence[str] = ()
) -> None:
    """Check that a network is the one whose weights a checkpoint holds.

    Args:
        fresh: state of the network that was built.
        weights: of the checkpoint.
        path: of the checkpoint.
        overrides: key=value of the command line, for the message.

    Raises:
        ConfigError: names or shapes differ; names the first.
    """
    differing = [
        key
        for key in {**fresh, **weights}
        if key not in fresh or key not in weights or fresh[key].shape != weights[key].shape
    ]
    if differing:
        of_network = [word for word in overrides if word.startswith(("model.", "data.classes="))]
        asking = " ".join(of_network or [str(path.parents[1] / RUN_CONFIG), *(f"with {word}" for word in overrides)])
        raise ConfigError(
            f"{asking} asks for another network than {path} holds: {differing[0]} and "
            f"{len(differing) - 1} more differ; classes and model must stay as they were trained"
        )


def _classes(config: Config, path: Path, content: dict[str, Any]) -> list[str]:
    """The names of the classes: the checkpoint's, or those of the data set for a checkpoint of an older version."""
    saved = content.get("hyper_parameters")
    names = saved.get("classes") if isinstance(saved, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    try:
        return list(data_module(config).classes)
    except (ConfigError, DataError, OSError) as error:
        raise ConfigError(
            f"{path} is of an older version and does not name its classes, which the data set does: {one_line(error)}"
        ) from error
