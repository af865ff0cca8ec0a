"""Restoring a checkpoint: errors of Lightning's restore end in one line, without a traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, shown
from dcnlab.training import process_death


def check_while_restoring(trainer: pl.Trainer, path: Path) -> None:
    """Have the trainer compare a checkpoint with the run when it restores it, and name the entry that does not fit.

    Args:
        trainer: of the run; its connector's methods are wrapped.
        path: of the checkpoint.
    """
    connector: Any = trainer._checkpoint_connector

    def wrapped(restore: Callable[..., Any], check: Callable[[Any], None]) -> Callable[..., Any]:
        def restored(*arguments: Any, **keywords: Any) -> Any:
            try:
                content = connector._loaded_checkpoint
                if content:
                    check(content)
                result = restore(*arguments, **keywords)
                if content and trainer.state.fn == "fit" and restore.__name__ == "restore_training_state":
                    _check_counts(trainer, content)
                return result
            except ConfigError:
                raise
            except Exception as error:  # whatever Lightning, an optimizer or a schedule makes of a wrong entry
                if process_death.is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {one_line(error)}"
                raise ConfigError(f"{path} does not fit its run: {reason}") from error

        return restored

    for name in ("resume_start", "restore_model", "restore_callbacks"):
        setattr(connector, name, wrapped(getattr(connector, name), lambda content: None))
    connector.restore_training_state = wrapped(connector.restore_training_state, partial(_check_state, trainer))


def _check_counts(trainer: pl.Trainer, content: dict[str, Any]) -> None:
    """Compare the counts of a restored checkpoint with those of its loops.

    Raises:
        ConfigError: two entries do not agree; names them.
    """
    progress, record = trainer.fit_loop.epoch_loop.batch_progress.current, content["dcnlab"]
    epochs: Any = trainer.fit_loop.epoch_progress.current
    for name, value, counted in (
        ("global_step", content["global_step"], trainer.global_step),
        ("dcnlab.pass", record["pass"], epochs.processed),
        ("dcnlab.batches", record["batches"], progress.completed if record["batches"] else 0),
    ):
        if value != counted:
            raise ConfigError(f"{name} of the checkpoint is {value}, and its loops count {counted}; it was edited")


def _check_state(trainer: pl.Trainer, content: dict[str, Any]) -> None:
    """Compare the entries of a checkpoint with those of a fresh training.

    Raises:
        ConfigError: an entry is missing, or of another kind or shape; names it.
    """
    for number, optimizer in enumerate(trainer.optimizers):
        name, state = f"optimizer_states.{number}", content["optimizer_states"][number]
        fresh = optimizer.state_dict()
        _same_kinds(fresh["param_groups"], state["param_groups"], f"{name}.param_groups")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameters[index].shape:
                    shapes = f"{tuple(value.shape)}, and must be {tuple(parameters[index].shape)}"
                    raise ConfigError(f"{name}.state.{index}.{key} of the checkpoint is of shape {shapes}")
    for number, schedule in enumerate(trainer.lr_scheduler_configs):
        _same_kinds(schedule.scheduler.state_dict(), content["lr_schedulers"][number], f"lr_schedulers.{number}")
    if content["pytorch-lightning_version"] == pl.__version__:  # another one may know other entries
        _same_kinds(trainer.fit_loop.state_dict(), content["loops"]["fit_loop"], "loops.fit_loop")


def _same_kinds(fresh: Any, restored: Any, name: str) -> None:
    """Check nested containers of numbers entry by entry.

    Raises:
        ConfigError: an entry of `fresh` is missing in `restored`, or of another kind; names it.
    """
    kinds = [float if type(value) is int else type(value) for value in (fresh, restored)]
    if kinds[0] is not kinds[1] and not {type(None), torch.Tensor} & set(kinds):
        raise ConfigError(f"{name} of the checkpoint is {shown(restored)}; it must be a {type(fresh).__name__}")
    if isinstance(fresh, dict):
        for key, value in fresh.items():
            if key not in restored:
                raise ConfigError(f"{name}.{key} is missing in the checkpoint")
            _same_kinds(value, restored[key], f"{name}.{key}")
    elif isinstance(fresh, list | tuple):
        if len(fresh) != len(restored):
            raise ConfigError(f"{name} of the checkpoint has {len(restored)} entries; it must have {len(fresh)}")
        for index, (value, other) in enumerate(zip(fresh, restored, strict=True)):
            _same_kinds(value, other, f"{name}.{index}")
