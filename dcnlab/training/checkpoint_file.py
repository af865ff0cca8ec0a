"""Checkpoints that are whole or not there, and from which a training goes on as if nothing had happened."""

from __future__ import annotations

import io
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from dcnlab.config import identity
from dcnlab.config.keys import flatten
from dcnlab.config.schema import Config
from dcnlab.data.listing import listing
from dcnlab.io import torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, shown
from dcnlab.training import environment, run_folder
from dcnlab.training.distributed.collectives import true_on_any_rank, waits_for_gpu
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.outcome import TimeLimit
from dcnlab.training.run_folder import CHECKPOINT, PREVIOUS

_MAY_DIFFER = (
    *(
        f"trainer.{key}"
        for key in ("max_", "val_every", "accelerator", "devices", "num_nodes", "deterministic", "offset_limit")
    ),
    *("data.root", "data.workers", "data.val", "data.test", "test.", "model.backbone.weights"),
)
"""Beginnings of keys that may have changed when a run goes on: how long, where, and how it is scored."""
MAY_CHANGE = (
    *(f"trainer.{key}" for key in ("max_steps", "max_epochs", "val_every", "accelerator", "devices", "num_nodes")),
    *(f"trainer.{key}" for key in ("deterministic", "offset_limit", "threads", "progress", "checkpoint_every")),
    *("trainer.rendezvous_minutes", "data.root", "data.workers", "data.val", "data.test", "test.", "logger."),
)
"""Beginnings of keys that `dcnlab resume` takes."""
ASKED_EVERY = 10
"""Steps between two times that several GPUs agree on whether to save: each time is a wait for them."""


class Damaged(ConfigError):
    """A checkpoint cannot be read."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints so that a crash, a full disk or kill -9 leaves the old file whole, and keeps the one before.

    Lightning writes its temporary file to the system's own folder for them, from where a move to another disk is a
    copy that can be cut short.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write next to the old file, then rename; the old one becomes `PREVIOUS`."""
        buffer = io.BytesIO()  # torch's own writing to a file says of a full disk only that something failed
        torch.save(checkpoint, buffer)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep(path)
        run_folder.write_whole(path, buffer.getbuffer())
        self._written = path

    def _keep(self, path: Path) -> None:
        """Make the checkpoint at hand the one before, unless it is damaged: the one before is all there is then.

        Both names stand for one file until the new one is written, so that the disk holds two files at any time.
        """
        if not path.is_file():
            return
        if path != self._written:  # another process wrote it, perhaps long ago
            try:
                read(path)
            except ConfigError:
                return
        previous = path.with_name(PREVIOUS.name)
        link = previous.with_name(f".{previous.name}.{os.getpid()}")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:  # a file system without links
            os.replace(path, previous)
        else:
            os.replace(link, previous)


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
        self.asked: type[BaseException] | None = None
        """What a signal has raised already; a batch raises it again."""
        self._data: dict[str, Any] = {}
        self._when, self._began, self._seen, self._saved = 0.0, 0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and have the learning rate follow the schedule of the training as long as it is now."""
        self._when, self._began = time.monotonic(), trainer.global_step
        _set_rates(trainer)
        self._data = listing(trainer.datamodule.train)  # type: ignore[attr-defined]
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
        self._stop_if_asked()
        if trainer.global_step == self._seen:  # within a step of several batches
            return
        self._seen = trainer.global_step
        if waits_for_gpu(trainer) and (self._seen - self._began) % ASKED_EVERY:
            return
        due = time.monotonic() - self._when >= 60 * self.minutes
        due, limit = true_on_any_rank(trainer, due, self.limit_is_near)
        if (due or limit) and trainer.global_step > self._saved:
            progress = trainer.fit_loop.epoch_loop.batch_progress
            ready, last = (progress.total.ready, progress.current.ready), progress.is_last_batch
            # The batch at hand is the first of those to come.
            progress.total.ready, progress.current.ready, progress.is_last_batch = ready[0] - 1, ready[1] - 1, False
            self._save(trainer, pl_module)
            (progress.total.ready, progress.current.ready), progress.is_last_batch = ready, last
        if limit:
            raise TimeLimit

    def on_validation_batch_start(self, *arguments: Any) -> None:
        """Stop where a signal said so."""
        self._stop_if_asked()

    def on_test_batch_start(self, *arguments: Any) -> None:
        """Stop where a signal said so."""
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked is not None:
            raise self.asked

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the pass has come to, after its validation.

        Lightning calls this also where `max_steps` ends the training within a pass. A longer training goes on there,
        with the images that are left of the pass, so that it is saved as such.
        """
        loop = trainer.fit_loop
        if loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, pl_module)
            return
        passes: Any = loop.epoch_progress
        processed = passes.total.processed, passes.current.processed
        passes.total.processed, passes.current.processed = processed[0] - 1, processed[1] - 1
        self._save(trainer, pl_module)
        passes.total.processed, passes.current.processed = processed

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
            "data": self._data,
        }


def _set_rates(trainer: pl.Trainer) -> None:
    """Set the rates of the step to come: a checkpoint holds those of the length that the training had then."""
    for found in trainer.lr_scheduler_configs:
        schedule: Any = found.scheduler
        for group, rate, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)


def paths_in(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest first: two, one or none."""
    return [folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).is_file()]


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run folder that is whole, and what it holds; says where that is not the last one.

    Raises:
        ConfigError: there is none, or none is whole.
    """
    paths = paths_in(folder)
    if not paths:
        raise ConfigError(f"{folder} has no {CHECKPOINT}; run its experiment again with `dcnlab fit`")
    for path in paths:
        try:
            found = read(path)
        except Damaged as error:
            if path == paths[-1]:
                raise
            if is_rank_0():
                text = f"{path} is damaged ({error.reason}); taking the one before it, {paths[-1].name}"
                logging.getLogger("dcnlab").warning(text)
        else:
            return path, found
    raise AssertionError


def read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, through the loader that runs no code.

    Raises:
        Damaged: it is not whole, or holds more than tensors and plain containers.
        ConfigError: it is no run's.
    """
    again = "begin a new run under another id, or remove the folder"
    try:
        found = torch_file.load(checkpoint)
    except ValueError as error:
        raise Damaged(f"{checkpoint} is no whole checkpoint ({error}); {again}", str(error)) from error
    if not isinstance(found, dict) or type(found.get("global_step")) is not int:
        raise ConfigError(f"{checkpoint} is no checkpoint of a run; {again}")
    state = found.get("state_dict")
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ConfigError(f"{checkpoint} is no checkpoint of a run: its state_dict is not names to tensors; {again}")
    _check_finite(checkpoint, state, "")
    return found


def _check_finite(checkpoint: Path, tensors: dict[str, torch.Tensor], what: str) -> None:
    """Refuse numbers that would be scored, exported or trained from as if they were some.

    Raises:
        ConfigError: a tensor holds NaN or infinity; names the first.
    """
    names = torch_file.not_finite(tensors)
    if names:
        more = f", nor are {len(names) - 1} more tensors" if len(names) > 1 else ""
        raise ConfigError(
            f"{checkpoint}: {what}{names[0].removeprefix('model.')} is not finite{more}; the training diverged or the "
            "file was edited: there is nothing to go on from, to score or to export"
        )


_KINDS: dict[str, type] = {
    "epoch": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "dcnlab": dict,
}
"""What a training needs of a checkpoint apart from its weights, which `read` checks."""
_ABOUT: dict[str, type] = {"settings": dict, "pass": int, "batches": int, "processes": int}


def check_trainable(kept: dict[str, Any], checkpoint: Path) -> None:
    """Check that a training can go on from what `read` gave, whichever its config.

    Raises:
        ConfigError: an entry is missing, of another kind, or not finite; names it.
    """
    about = kept.get("dcnlab")
    if not isinstance(about, dict) or any(type(about.get(key)) is not kind for key, kind in _ABOUT.items()):
        raise ConfigError(f"{checkpoint} does not say what made it, so that nothing can go on from it")
    for key in ("pass", "batches", "processes"):
        if about[key] < (key == "processes"):
            raise ConfigError(f"{checkpoint}: dcnlab.{key} is {about[key]}; the file was edited")
    for key, kind in _KINDS.items():
        if type(kept.get(key)) is not kind:
            there = f"a {type(kept[key]).__name__}" if key in kept else "missing"
            raise ConfigError(f"{checkpoint}: {key} is {there}, and must be a {kind.__name__}; the file was edited")
    current = kept.get("current_model_state", {})
    if not isinstance(current, dict) or not all(isinstance(value, torch.Tensor) for value in current.values()):
        raise ConfigError(f"{checkpoint}: current_model_state is not names to tensors; the file was edited")
    _check_finite(checkpoint, current, "before averaging, ")
    tensors = dict(_named_tensors(kept["optimizer_states"], "optimizer_states"))
    _check_finite(checkpoint, tensors, "")


def _named_tensors(nest: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in nested containers, under the path of their keys."""
    if isinstance(nest, torch.Tensor):
        yield name, nest
    elif isinstance(nest, dict | list):
        for key, value in nest.items() if isinstance(nest, dict) else enumerate(nest):
            yield from _named_tensors(value, f"{name}.{key}")


def check_data(kept: dict[str, Any], train: Any, checkpoint: Path) -> str | None:
    """Compare the training images with those that a checkpoint was trained on.

    Args:
        kept: as `check_trainable` lets pass.
        train: the training split.
        checkpoint: its path.

    Returns:
        One line to say where they are others; None where they are the same, or the checkpoint is too old to tell.

    Raises:
        ConfigError: there are more or fewer, and it is of the middle of a pass: the order of a pass depends on their
            number, so that its rest would hold images that it has had, and lack others.
    """
    old, new = kept["dcnlab"].get("data"), listing(train)
    if not isinstance(old, dict) or type(old.get("images")) is not int or old == new:
        return None
    if old["images"] == new["images"]:
        return f"data.train lists other images than {checkpoint} was trained on, as many; going on with them"
    counts = f"data.train has {new['images']} images, and {checkpoint} was trained on {old['images']}"
    if kept["dcnlab"]["batches"]:
        raise ConfigError(
            f"{counts}, up to the middle of a pass, whose order depends on that number; put them back, or begin a new "
            "run under another id"
        )
    return f"{counts}; going on with them"


def refuse_what_does_not_fit(trainer: pl.Trainer, checkpoint: Path) -> None:
    """Have a checkpoint that Lightning cannot restore, such as an edited one, end in one line, not in a traceback."""
    connector: Any = trainer._checkpoint_connector

    def refusing(restore: Callable[..., Any], check: Callable[[Any], None]) -> Callable[..., Any]:
        def restored(*arguments: Any, **keywords: Any) -> Any:
            try:
                kept = connector._loaded_checkpoint
                if kept:
                    check(kept)
                done = restore(*arguments, **keywords)
                if kept and trainer.state.fn == "fit" and restore.__name__ == "restore_training_state":
                    _check_counts(trainer, kept)
                return done
            except ConfigError:
                raise
            except Exception as error:  # whatever Lightning, an optimizer or a schedule makes of a wrong entry
                if environment.is_out_of_memory(error):
                    raise
                said = f"{type(error).__name__}: {one_line(error)}"
                raise ConfigError(f"{checkpoint} does not fit its run: {said}") from error

        return restored

    for name in ("resume_start", "restore_model", "restore_callbacks"):
        setattr(connector, name, refusing(getattr(connector, name), lambda kept: None))
    connector.restore_training_state = refusing(connector.restore_training_state, partial(_check_state, trainer))


def _check_counts(trainer: pl.Trainer, kept: dict[str, Any]) -> None:
    """Check what a checkpoint counts twice, once restored.

    Raises:
        ConfigError: two entries do not agree; names them.
    """
    progress, about = trainer.fit_loop.epoch_loop.batch_progress.current, kept["dcnlab"]
    passes: Any = trainer.fit_loop.epoch_progress.current
    for name, value, counted in (
        ("global_step", kept["global_step"], trainer.global_step),
        ("dcnlab.pass", about["pass"], passes.processed),
        ("dcnlab.batches", about["batches"], progress.completed if about["batches"] else 0),
    ):
        if value != counted:
            raise ConfigError(f"{name} of the checkpoint is {value}, and its loops count {counted}; it was edited")


def _check_state(trainer: pl.Trainer, kept: dict[str, Any]) -> None:
    """Compare what is to be restored with what a training has at its beginning.

    Raises:
        ConfigError: an entry is missing, or of another kind or shape; names it.
    """
    for number, optimizer in enumerate(trainer.optimizers):
        name, found = f"optimizer_states.{number}", kept["optimizer_states"][number]
        fresh = optimizer.state_dict()
        _same_kinds(fresh["param_groups"], found["param_groups"], f"{name}.param_groups")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for at, state in found["state"].items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameters[at].shape:
                    shapes = f"{tuple(value.shape)}, and must be {tuple(parameters[at].shape)}"
                    raise ConfigError(f"{name}.state.{at}.{key} of the checkpoint is of shape {shapes}")
    for number, schedule in enumerate(trainer.lr_scheduler_configs):
        _same_kinds(schedule.scheduler.state_dict(), kept["lr_schedulers"][number], f"lr_schedulers.{number}")
    if kept["pytorch-lightning_version"] == pl.__version__:  # another one may know other entries
        _same_kinds(trainer.fit_loop.state_dict(), kept["loops"]["fit_loop"], "loops.fit_loop")


def _same_kinds(fresh: Any, found: Any, name: str) -> None:
    """Check nested containers of numbers entry by entry.

    Raises:
        ConfigError: an entry of `fresh` is missing in `found`, or of another kind; names it.
    """
    kinds = [float if type(value) is int else type(value) for value in (fresh, found)]
    if kinds[0] is not kinds[1] and not {type(None), torch.Tensor} & set(kinds):
        raise ConfigError(f"{name} of the checkpoint is {shown(found)}; it must be a {type(fresh).__name__}")
    if isinstance(fresh, dict):
        for key, value in fresh.items():
            if key not in found:
                raise ConfigError(f"{name}.{key} is missing in the checkpoint")
            _same_kinds(value, found[key], f"{name}.{key}")
    elif isinstance(fresh, list | tuple):
        if len(fresh) != len(found):
            raise ConfigError(f"{name} of the checkpoint has {len(found)} entries; it must have {len(fresh)}")
        for at, (value, other) in enumerate(zip(fresh, found, strict=True)):
            _same_kinds(value, other, f"{name}.{at}")


def recorded_length(kept: dict[str, Any]) -> dict[str, Any]:
    """How long the training that made a checkpoint was to be: `trainer.max_steps` and `trainer.max_epochs`."""
    about = kept.get("dcnlab")
    settings = about.get("settings") if isinstance(about, dict) else None
    if not isinstance(settings, dict):
        return {}
    found = {key: settings[key] for key in ("trainer.max_steps", "trainer.max_epochs") if key in settings}
    return {key: value for key, value in found.items() if value is None or type(value) is int}


def check_changes(before: Config, after: Config, folder: Path) -> dict[str, Any]:
    """Check that a run can go on under a changed config.

    Args:
        before: its own config.
        after: the same with the key=value of the command line.
        folder: of the run.

    Returns:
        The keys that change, with their new values.

    Raises:
        ConfigError: names a key whose change would make it another run.
    """
    old, new = (dict(flatten(asdict(config))) for config in (before, after))
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    # A sweep's record of its parameters is no key of the command line.
    words = " ".join(shlex.quote(f"{key}={value}") for key, value in changed.items() if not key.startswith("sweep."))
    for key, value in changed.items():
        if not key.startswith(MAY_CHANGE):
            raise ConfigError(
                f"{key} is {old.get(key)!r} in {folder} and cannot become {value!r} there; put it back, or begin a new "
                f"run: dcnlab fit {shlex.quote(str(folder / 'config.yaml'))} id=null {words}"
            )
    return changed


def goes_beyond(kept: dict[str, Any], config: Config, folder: Path) -> bool:
    """Whether a training under `config` goes beyond what `read` gave.

    Raises:
        ConfigError: it was to end before that; names the key.
    """
    about = kept.get("dcnlab")
    passes = about.get("pass") if isinstance(about, dict) else None
    whole = passes if type(passes) is int else 0
    begun = whole + bool(isinstance(about, dict) and about.get("batches"))
    run = config.trainer
    for key, most, done, what in (
        ("max_steps", run.max_steps, kept["global_step"], "steps"),
        ("max_epochs", run.max_epochs, begun, "passes"),
    ):
        if most is not None and most < done:
            raise ConfigError(f"trainer.{key} is {most}, and {folder} has trained {done} {what}; state at least {done}")
    return not (run.max_steps == kept["global_step"] or run.max_epochs == whole)


def check_fits(kept: dict[str, Any], config: Config, processes: int, checkpoint: Path) -> None:
    """Check that a training under `config` can go on from what `check_trainable` let pass.

    Raises:
        ConfigError: another training made it; names the first key that differs.
    """
    about = kept["dcnlab"]
    theirs, ours = identity.changed(about["settings"]), identity.changed(identity.settings(config))
    for key in {**theirs, **ours}:
        if not key.startswith(_MAY_DIFFER) and theirs.get(key) != ours.get(key):
            defaults = identity.settings(Config())
            was, now = (found.get(key, defaults.get(key)) for found in (theirs, ours))
            raise ConfigError(
                f"{checkpoint} was trained with {key} {was!r}, which is {now!r} now; put it back, or begin a new run"
            )
    if about["batches"] and about["processes"] != processes:
        raise ConfigError(
            f"{checkpoint} is of the middle of a pass of {about['processes']} processes, and there are {processes} "
            f"now; go on with {about['processes']}"
        )
