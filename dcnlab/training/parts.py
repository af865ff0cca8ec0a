"""The parts of a run, built from its config: data, task, trainer and callbacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from dcnlab.config import identity
from dcnlab.config.path_checks import check_paths
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training import compilation, preflight, process_death
from dcnlab.training.build_data import data_module
from dcnlab.training.build_network import checked_task_module
from dcnlab.training.build_trainer import trainer_of
from dcnlab.training.callbacks import other_offsets
from dcnlab.training.callbacks.best import WatchBest, monitored
from dcnlab.training.callbacks.checkpoint import SaveCheckpoint
from dcnlab.training.callbacks.cost import Cost
from dcnlab.training.callbacks.divergence import StopOnDivergence
from dcnlab.training.callbacks.feature_cache import CacheFeatures
from dcnlab.training.callbacks.finite_outputs import FiniteOutputs
from dcnlab.training.callbacks.progress import ShowProgress
from dcnlab.training.callbacks.watchdog import Watchdog
from dcnlab.training.distributed.failures import FailurePropagation
from dcnlab.training.loggers import console, wandb_start
from dcnlab.training.run_folder import RunFolder


@dataclass
class Parts:
    """The objects that a config describes."""

    config: Config
    data: Any
    task: pl.LightningModule
    trainer: pl.Trainer
    cost: Cost
    saving: SaveCheckpoint
    failures: FailurePropagation
    loggers: Sequence[Logger] = ()
    """The caller's, in addition to those of the config."""


def build(
    config: Config,
    folder: RunFolder,
    trains: bool = True,
    alone: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Parts:
    """Build data, task and trainer; writes nothing.

    Args:
        config: of the run.
        folder: of the run.
        trains: whether the run is trained, not only scored or looked at.
        alone: whether this process works alone, even if a launcher started several.
        callbacks: of the caller, called after dcnlab's.
        loggers: of the caller.

    Raises:
        ConfigError: the data, the weights or the device are missing or do not fit.
    """
    check_paths(config, of_run=folder.config.is_file())
    if console.uses(config.logger, "wandb"):
        wandb_start.mode()
    console.check_tensorboard(config.logger)
    console.quiet()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    ranks = preflight.check_devices(config.trainer, alone)
    if trains:
        compilation.check_compiler(config.trainer)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    failures, cost = FailurePropagation(), Cost()
    divergence = StopOnDivergence(config.trainer.offset_limit, config.logger.every)
    saving = SaveCheckpoint(
        folder.checkpoint, identity.settings(config), config.trainer.checkpoint_every, check=divergence.check
    )
    own_callbacks: list[pl.Callback] = [failures, cost, divergence, FiniteOutputs(), saving, Watchdog()]
    own_callbacks.append(_progress(config))
    if config.data.cache_features:
        own_callbacks.append(CacheFeatures(folder.path.parents[1] / ".features"))
    if config.trainer.keep_best or config.trainer.early_stop:
        kept = folder.best_checkpoint if config.trainer.keep_best else None
        own_callbacks.insert(4, WatchBest(monitored(config), kept, config.trainer.early_stop))
    if config.test.offsets != "predicted":
        own_callbacks.append(other_offsets.OtherOffsets(config.test.offsets, config.seed))
    try:
        data = data_module(config)
        task = checked_task_module(config, data.classes)
        other_offsets.check(config, task, len(data.test))
        preflight.check_kernels(config.trainer, task)
        if trains:
            preflight.check_norms(config, data, task, ranks)
            preflight.check_dilation(config, data, task)
        trainer = trainer_of(config, folder.path, [*own_callbacks, *callbacks], data.val is not None, alone)
        return Parts(config, data, task, trainer, cost, saving, failures, loggers)
    except (DataError, OSError) as error:
        raise ConfigError(one_line(error)) from error
    except (MemoryError, RuntimeError) as error:
        if process_death.is_out_of_memory(error):
            raise ConfigError("the network does not fit into memory; see the widths in model") from error
        raise


def _progress(config: Config) -> ShowProgress:
    """The callback that shows the progress: by a bar where standard error is a terminal, elsewhere by lines."""
    every, metric = config.logger.every, monitored(config)
    if not config.trainer.progress:
        return ShowProgress(every, metric)
    if sys.stderr.isatty():
        return ShowProgress(every, metric, bar=console.ProgressBar())
    return ShowProgress(every, metric, tell=logging.getLogger("dcnlab.run").info)
