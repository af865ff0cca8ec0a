"""Checkpoints that are whole or not there, and from which a training goes on as if nothing had happened."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from dcnlab import configfile, runs, torchfile
from dcnlab.config import Config, ConfigError
from dcnlab.runs import CHECKPOINT

_MAY_DIFFER = (
    *(
        f"trainer.{key}"
        for key in ("max_", "val_every", "accelerator", "devices", "num_nodes", "deterministic", "offset_limit")
    ),
    *("data.root", "data.workers", "data.val", "data.test", "test.", "model.backbone.weights"),
)
"""Beginnings of keys that may have changed when a run goes on: how long, where, and how it is scored."""
ASKED_EVERY = 10
"""Steps between two times that several GPUs agree on whether to save: each time is a wait for them."""


class TimeLimit(BaseException):
    """The time limit is near: what was learnt is saved, and the training is to end."""


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints so that a crash, a full disk or kill -9 leaves the old file whole.

    Lightning writes its temporary file to the system's own folder for them, from where a move to another disk is a
    copy that can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the old file, then rename."""
        buffer = io.BytesIO()  # torch's own writing to a file says of a full disk only that something failed
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        runs.write_whole(Path(path), buffer.getbuffer())


class Saving(Checkpoint):
    """Replaces the run's checkpoint at the end of every pass, every few minutes between, and before a time limit.

    Args:
        path: of the checkpoint.
        settings: what the run computes, kept in the checkpoint so that no other run goes on from it.
        minutes: between two checkpoints within a pass.
        check: raises, in all processes alike, where what would be saved is worth less than what is there.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        minutes: float,
        check: Callable[[pl.Trainer, pl.LightningModule], None],
    ) -> None:
        self.path, self.settings, self.minutes, self.check = path, settings, minutes, check
        self.limit_is_near = False
        self._when, self._began, self._seen, self._saved = 0.0, 0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._when, self._began = time.monotonic(), trainer.global_step
        self._seen = self._saved = self._began

    @property
    def got_on(self) -> bool:
        """Whether the checkpoint holds more than the training began with."""
        return self._saved > self._began

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps where it is time; at the end of a batch its figures would not be logged yet.

        Raises:
            TimeLimit: somebody said that it is near; it is saved.
        """
        if trainer.global_step == self._seen:  # within a step of several batches
            return
        self._seen = trainer.global_step
        if waits_to_ask(trainer) and (self._seen - self._began) % ASKED_EVERY:
            return
        due = time.monotonic() - self._when >= 60 * self.minutes
        due, limit = in_any_process(trainer, due, self.limit_is_near)
        if (due or limit) and trainer.global_step > self._saved:
            progress = trainer.fit_loop.epoch_loop.batch_progress
            ready, last = (progress.total.ready, progress.current.ready), progress.is_last_batch
            # The batch at hand is the first of those to come.
            progress.total.ready, progress.current.ready, progress.is_last_batch = ready[0] - 1, ready[1] - 1, False
            self._save(trainer, pl_module)
            (progress.total.ready, progress.current.ready), progress.is_last_batch = ready, last
        if limit:
            raise TimeLimit

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the pass has come to, after its validation."""
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer, pl_module)
        for logger in trainer.loggers:
            logger.save()  # rows of steps that nobody will run again
        trainer.save_checkpoint(self.path)
        self._when, self._saved = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what `read` and `check_fits` need."""
        loop = trainer.fit_loop
        passes: Any = loop.epoch_progress.current
        checkpoint["dcnlab"] = {
            "settings": self.settings,
            "pass": passes.processed,
            "batches": loop.epoch_loop.batch_progress.current.completed if passes.ready > passes.processed else 0,
            "processes": trainer.world_size,
        }


def waits_to_ask(trainer: pl.Trainer) -> bool:
    """Whether `in_any_process` waits for a GPU."""
    return trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu"


def in_any_process(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Which of the flags are set in any process; to be called by all of them."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return list(flags)
    numbers = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def from_all_processes(trainer: pl.Trainer, text: str | None) -> list[str | None]:
    """What each process has to say; to be called by all of them."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return [text]
    texts: list[str | None] = [None] * trainer.world_size
    dist.all_gather_object(texts, text)
    return texts


def path_in(folder: Path) -> Path:
    """The checkpoint of a run folder.

    Raises:
        ConfigError: there is none.
    """
    if not (folder / CHECKPOINT).is_file():
        raise ConfigError(f"{folder} has no {CHECKPOINT}; run its experiment again with `dcnlab fit`")
    return folder / CHECKPOINT


def read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, through the loader that runs no code.

    Raises:
        ConfigError: it is not whole, or holds more than tensors and plain containers.
    """
    again = "run its experiment again with `dcnlab fit`"
    try:
        found = torchfile.load(checkpoint)
    except ValueError as error:
        raise ConfigError(f"{checkpoint} is no whole checkpoint ({error}); {again}") from error
    if not isinstance(found, dict) or type(found.get("global_step")) is not int:
        raise ConfigError(f"{checkpoint} is no checkpoint of a run; {again}")
    state = found.get("state_dict")
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ConfigError(f"{checkpoint} is no checkpoint of a run: its state_dict is not names to tensors; {again}")
    return found


def check_fits(kept: dict[str, Any], config: Config, processes: int, checkpoint: Path) -> None:
    """Check that a training under `config` can go on from what `read` gave.

    Raises:
        ConfigError: another training made it; names the first key that differs.
    """
    about = kept.get("dcnlab")
    kinds = {"settings": dict, "batches": int, "processes": int}
    if not isinstance(about, dict) or any(type(about.get(key)) is not kind for key, kind in kinds.items()):
        raise ConfigError(f"{checkpoint} does not say what made it, so that nothing can go on from it")
    theirs, ours = configfile.changed(about["settings"]), configfile.changed(configfile.settings(config))
    for key in {**theirs, **ours}:
        if not key.startswith(_MAY_DIFFER) and theirs.get(key) != ours.get(key):
            defaults = configfile.settings(Config())
            was, now = (found.get(key, defaults.get(key)) for found in (theirs, ours))
            raise ConfigError(
                f"{checkpoint} was trained with {key} {was!r}, which is {now!r} now; put it back, or begin a new run"
            )
    if about["batches"] and about["processes"] != processes:
        raise ConfigError(
            f"{checkpoint} is of the middle of a pass of {about['processes']} processes, and there are {processes} "
            f"now; go on with {about['processes']}"
        )
