"""The console of a run: Lightning's messages silenced, ours on stderr, a progress bar; and TensorBoard's logger."""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from dcnlab.config.schema import Config, LoggerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import VisibleFormatter
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.run_lines import Standing, duration

_NOISE = (
    r".*does not have many workers.*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*logging interval.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # what we log is the same on all ranks
    r".*You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
)


def quiet() -> None:
    """Silence Lightning's hints for developers, not its errors and other warnings; our messages go to stderr."""
    ours = logging.getLogger("dcnlab")
    if not ours.handlers and is_rank_0():
        handler = _Stderr()
        handler.setFormatter(VisibleFormatter())
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what standard error is at the moment: above a bar that is shown."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Standard error."""
        return sys.stderr


class ProgressBar:
    """A bar on standard error: the steps of the training, and below it the batches of an evaluation."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None

    def _started(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TextColumn("{task.fields[measures]}", markup=False),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._progress.start()
        return self._progress

    def start(self, steps: int | None, done: int) -> None:
        """Begin a training of so many steps."""
        self._training = self._started().add_task("step", total=steps, completed=done, measures="")

    def step(self, step: int) -> None:
        """Show a step."""
        if self._training is not None:
            self._started().update(self._training, completed=step)

    def show(self, standing: Standing) -> None:
        """Show epoch, loss, score and the time left."""
        if self._training is None:
            return
        epochs = "" if standing.epochs is None else f"/{standing.epochs}"
        left = "" if standing.left is None else f", {duration(standing.left)} left"
        description, measures = f"epoch {standing.epoch}{epochs}", f"{standing.measures()}{left}"
        self._started().update(self._training, description=description, measures=measures)

    def evaluate(self, what: str, batch: int, batches: int | float) -> None:
        """Show a batch of a validation or a test."""
        if self._evaluation is None:
            self._evaluation = self._started().add_task(what, total=batches, measures="")
        self._started().update(self._evaluation, completed=batch)

    def end_evaluation(self) -> None:
        """Remove the batches of an evaluation."""
        if self._progress is not None and self._evaluation is not None:
            self._progress.remove_task(self._evaluation)
        self._evaluation = None

    def stop(self) -> None:
        """Leave the terminal to others; the last state stays."""
        self.end_evaluation()
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._training = None


def uses(loggers: LoggerConfig, name: str) -> bool:
    """Whether an experiment asks for a logger, wandb or tensorboard."""
    return (loggers.wandb and name == "wandb") if loggers.names is None else name in loggers.names


def check_tensorboard(loggers: LoggerConfig) -> None:
    """Check that TensorBoard is installed where an experiment asks for it.

    Raises:
        ConfigError: it is not.
    """
    packages = ("tensorboard", "tensorboardX")
    if uses(loggers, "tensorboard") and not any(importlib.util.find_spec(name) for name in packages):
        raise ConfigError("logger.names has tensorboard, which is not installed: pip install 'dcnlab[tensorboard]'")


def tensorboard_loggers(config: Config, folder: Path) -> list[TensorBoardLogger]:
    """The logger to TensorBoard's files in the run folder; none where the config does not ask for it."""
    if not uses(config.logger, "tensorboard"):
        return []
    return [TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)]
