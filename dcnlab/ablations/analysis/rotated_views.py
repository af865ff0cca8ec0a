"""A finished classifier's accuracy on rotated and scaled views of its test split, each image read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor, nn

from dcnlab.data.classification.rotation import turn
from dcnlab.io.errors import ConfigError
from dcnlab.tasks.classification import Classification, TopK
from dcnlab.training.build_data import reading_data
from dcnlab.training.run import restore
from dcnlab.training.run_folder import RunFolder

View = tuple[float, float]
"""Degrees counter-clockwise, and magnification."""


class _Views(pl.LightningModule):
    """Scores a classifier on several views of each batch."""

    def __init__(self, task: Classification, views: Sequence[View]) -> None:
        super().__init__()
        self.task, self.views = task, views
        self.top1 = [TopK(len(task.classes)) for _ in views]
        self.scores = nn.ModuleList(self.top1)  # registered, so that they move to the network's device

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        for (rotation, magnification), top1 in zip(self.views, self.top1, strict=True):
            top1.update(self.task(turn(images, rotation, magnification, self.task.background)), labels)


def top1(folder: Path, views: Sequence[View], overrides: Sequence[str] = ()) -> dict[View, float]:
    """Test a run's last checkpoint, in one process.

    Args:
        folder: the run folder.
        views: rotation and magnification of the images, see :func:`dcnlab.data.classification.rotation.turn`.
        overrides: key=value upon its config.

    Returns:
        Top-1 of each view, percent.

    Raises:
        ConfigError: the run is not finished or not of a classifier, or its data is missing.
    """
    results = RunFolder(folder).read_results()
    if results is None or results["status"] != "finished":
        raise ConfigError(f"{folder} is not finished; robustness is measured for finished runs")
    config, parts = restore(folder, list(overrides))
    if not isinstance(parts.task, Classification):
        raise ConfigError(f"{folder} is of task {config.task}; robustness is measured for classification")
    module = _Views(parts.task, views)
    with reading_data():
        parts.trainer.test(module, datamodule=parts.data, verbose=False)
    return {view: float(score.compute()) for view, score in zip(views, module.top1, strict=True)}
