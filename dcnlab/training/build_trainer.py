"""Builds the Lightning Trainer of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from dcnlab.config.schema import Config, TrainerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training.checkpoint_file import WholeFiles
from dcnlab.training.distributed import rank_checks
from dcnlab.training.distributed.rendezvous import watch_rendezvous
from dcnlab.training.distributed.slurm_tasks import SlurmMachines, SlurmTasks
from dcnlab.training.epoch_loop import EpochLoop

_PROFILERS: dict[str, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


class _Averaging(EMAWeightAveraging):
    """Puts the average in place after a fit without a step too: a run resumed at the end of its training.

    In a validation the average is in the place of the weights, which a checkpoint needs.
    """

    _validates = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._validates = self._average_model is not None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validates = False
        super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._validates:  # the run ends within it; the checkpoint's tensors are those of the network
            self.on_validation_epoch_end(trainer, pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._copy_average_to_current(pl_module)


def _accelerator(run: TrainerConfig) -> str:
    """The accelerator for Lightning, whose own auto would take an Apple GPU: the operators have no kernels for it."""
    return "cpu" if run.accelerator == "auto" and not torch.cuda.is_available() else run.accelerator


def trainer_of(
    config: Config, folder: Path, callbacks: list[pl.Callback], validates: bool, alone: bool = False
) -> pl.Trainer:
    """The trainer, without loggers.

    Args:
        config: of the run.
        folder: of the run.
        callbacks: of the run; weight averaging is added.
        validates: whether there is a validation split.
        alone: whether this process works alone, even if a launcher started several.

    Raises:
        ConfigError: Lightning refuses what the config states, or no number of batches gives `effective_batch`.
    """
    run = config.trainer
    averaging = [] if config.optim.ema is None else [_Averaging(decay=config.optim.ema)]
    plugins: list[Any] = [WholeFiles()]
    if alone or rank_checks.starts_own_ranks_in_slurm():
        plugins.append(LightningEnvironment())
    elif rank_checks.starts_ranks_of_machine(run.devices):
        plugins.append(SlurmMachines())
    elif rank_checks.under_srun():
        plugins.append(SlurmTasks())
    try:
        trainer = pl.Trainer(
            accelerator=_accelerator(run),
            devices=run.devices,
            num_nodes=run.num_nodes,
            precision=run.precision,  # type: ignore[arg-type]  # checked against training_checks.PRECISIONS
            max_steps=run.max_steps or -1,
            max_epochs=1 if run.fast_dev_run else run.max_epochs or -1,
            strategy=run.strategy,
            profiler=None if run.profiler is None else _PROFILERS[run.profiler](folder / "profile", "profile"),
            limit_train_batches=_limit(run, run.limit_train_batches),
            limit_test_batches=_limit(run, run.limit_test_batches),
            gradient_clip_val=config.optim.clip_norm,
            deterministic=run.deterministic,
            use_distributed_sampler=False,  # the data modules share the images among the ranks, without padding
            num_sanity_val_steps=0,
            check_val_every_n_epoch=run.val_every,
            limit_val_batches=_limit(run, run.limit_val_batches) if validates else 0,
            log_every_n_steps=config.logger.every,
            logger=False,
            plugins=plugins,
            callbacks=[*averaging, *callbacks],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ConfigError(f"trainer: {one_line(error)}") from error
    if isinstance(trainer.strategy, DDPStrategy):
        watch_rendezvous(trainer.strategy, run.rendezvous_minutes)
    # Lightning's handler of SIGTERM calls a collective, wherever the ranks are at that moment.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    EpochLoop.put_into(trainer)
    trainer.accumulate_grad_batches = accumulation(config, trainer.world_size)
    return trainer


def _limit(run: TrainerConfig, limit: float | None) -> int | float | None:
    """A number of batches as Lightning takes it, where 1 is one batch and 1.0 is all."""
    if run.fast_dev_run:
        return 1
    return limit if limit is None or limit < 1 else int(limit)


def accumulation(config: Config, world_size: int) -> int:
    """Batches for each step of the optimizer, so that a step sees `trainer.effective_batch` images.

    Raises:
        ConfigError: no whole number of batches gives that many.
    """
    effective, loaded = config.trainer.effective_batch, config.data.batch_size * world_size
    if effective is None:
        return 1
    if effective % loaded:
        fits = math.gcd(effective, loaded) if world_size == 1 else math.gcd(effective // world_size, loaded)
        hint = f"; data.batch_size={fits} would do" if effective % (fits * world_size) == 0 else ""
        raise ConfigError(
            f"trainer.effective_batch is {effective}; it must be a multiple of the {loaded} images that "
            f"data.batch_size {config.data.batch_size} x {world_size} processes load{hint}"
        )
    return effective // loaded
