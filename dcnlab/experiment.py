"""One run: config, then data, task and trainer, then the run folder with results.json."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from dcnlab import configfile, environment, runs, tracking
from dcnlab.config import Config, ConfigError
from dcnlab.cost import Cost, macs, parameters

CHECKPOINT = Path("checkpoints") / "last.ckpt"


@dataclass
class Parts:
    """What a config stands for."""

    data: pl.LightningDataModule
    task: pl.LightningModule
    trainer: pl.Trainer
    cost: Cost


def fit(config: Config) -> Path:
    """Train and score one experiment.

    Returns:
        The run folder.

    Raises:
        ConfigError: what the config asks for cannot be built; no folder is made.
        Interrupted: the run was stopped; results.json says so.
    """
    given = "DCNLAB_RUN_ID" in os.environ
    try:
        folder = runs.folder_of(config)
        parts = build(config, folder)
        with _sole_user(folder):
            if tracking.is_first_process():
                runs.create(folder)
                runs.write_whole(folder / "config.yaml", configfile.to_yaml(config))
            _run(config, parts, folder, checkpoint=None)
    finally:
        if not given:  # the next run of this process has an ID of its own
            os.environ.pop("DCNLAB_RUN_ID", None)
    return folder


def resume(folder: Path) -> Path:
    """Go on with a run from its last checkpoint, under its own config.

    Raises:
        ConfigError: it is finished, or has no checkpoint yet.
        Interrupted: the run was stopped again.
    """
    config = configfile.load_run(folder)
    named, folder = folder, folder.resolve()  # `.` has no name
    config.out, config.name, config.id = str(folder.parent.parent), folder.parent.name, folder.name
    config.model.backbone.weights = "none"  # the checkpoint brings them
    with _sole_user(folder):
        results = runs.read_results(folder)
        if results is not None and results["status"] == "finished":
            raise ConfigError(f"{folder} is finished; there is nothing to resume")
        checkpoint = _checkpoint(folder)
        _read(checkpoint)
        _run(config, build(config, folder), folder, checkpoint)
    return named


def evaluate(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Score a run's last checkpoint again; the run folder stays as it is.

    Args:
        folder: the run folder.
        overrides: key=value upon its config, such as another `data.root`.

    Returns:
        The metrics, percent.
    """
    config = configfile.load_run(folder, overrides)
    config.model.backbone.weights = "none"  # the checkpoint brings them
    checkpoint = _checkpoint(folder)
    _read(checkpoint)
    parts = build(config, folder)
    try:
        return _metrics(_test(parts, checkpoint))
    except ValueError as error:
        complaint = _of_the_data(error)
        if complaint is not None:
            raise ConfigError(complaint) from error
        raise


def build(config: Config, folder: Path) -> Parts:
    """The data module, the task and the trainer of a config; writes nothing.

    Raises:
        ConfigError: the data, the weights or the device are not there or do not fit.
    """
    configfile.check_paths(config)
    if config.logger.wandb:
        tracking.wandb_mode()
    tracking.quiet()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    cost = Cost()
    try:
        data = _data(config)
        return Parts(data, _task(config, data), _trainer(config, folder, cost), cost)
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(configfile.one_line(error)) from error


def _data(config: Config) -> Any:
    from dcnlab.data.digit_rendering import Geometry
    from dcnlab.data.module import DigitsDataModule, ImageFolderDataModule

    data = config.data
    for key, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if isinstance(split, list):
            raise ConfigError(f"data.{key} is {split}; {data.name} takes the name of one split")
    common: dict[str, Any] = {
        "train": data.train,
        "val": data.val,
        "test": data.test,
        "classes": data.classes,
        "batch_size": data.batch_size,
        "workers": data.workers,
        "seed": config.seed,
    }
    if data.name == "imagefolder":
        return ImageFolderDataModule(root=data.root or "", image_size=data.image_size, **common)
    geometry = Geometry(
        image_size=data.image_size,
        rotation=data.rotation,
        scale=data.scale,
        shear=data.shear,
        warp=data.warp,
        clutter=data.clutter,
    )
    return DigitsDataModule(geometry, train_length=data.train_length, test_length=data.test_length, **common)


def _task(config: Config, data: Any) -> pl.LightningModule:
    from dcnlab.models.resnet import classifier
    from dcnlab.tasks.classification import Classification

    model = classifier(
        config.model.backbone.name,
        len(data.classes),
        weights=config.model.backbone.weights,
        deform_layers=config.model.deform_layers,
        dilation=config.model.dilation,
        offset_groups=config.model.offset_groups,
        modulated=config.model.modulated,
    )
    return Classification(model, data.classes, config.optim)


def _run(config: Config, parts: Parts, folder: Path, checkpoint: Path | None) -> None:
    """Train, score and write results.json, whatever happens."""
    trainer, task, data = parts.trainer, parts.task, parts.data
    step = None if checkpoint is None else _read(checkpoint)["global_step"]
    wandb_logger = tracking.wandb_logger(config, folder)
    trainer.loggers = [tracking.csv_logger(folder, step), *([wandb_logger] if wandb_logger else [])]
    results: dict[str, Any] = {
        "schema": runs.SCHEMA,
        "name": config.name,
        "status": "interrupted",
        "seed": config.seed,
        "parameters": config.sweep,
        "metrics": {},
        "model": {},
    }
    try:
        with _terminable():
            results["model"] = {"params": parameters(task), "macs": macs(task, _one_image(data))}
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            _check_loss(trainer)
            results["metrics"] = _metrics(_test(parts))
        results["status"] = "finished"
    except (KeyboardInterrupt, SystemExit, _Terminated) as error:  # Lightning turns Ctrl-C into SystemExit
        raise runs.Interrupted(folder) from error
    except BaseException as error:
        results |= {"status": "failed", "reason": f"{type(error).__name__}: {configfile.one_line(error)}"}
        complaint = _of_the_data(error)
        if complaint is not None:
            raise ConfigError(complaint) from error
        raise
    finally:
        parts.cost.stop()
        if trainer.is_global_zero:
            device = trainer.strategy.root_device
            results["cost"] = parts.cost.summary(device)
            results["environment"] = environment.describe(trainer.world_size, device)
            results["wandb"] = _wandb_ids(wandb_logger)
            runs.write_results(folder, results)
            _finish_wandb(wandb_logger, results)


def _trainer(config: Config, folder: Path, cost: Cost) -> pl.Trainer:
    run = config.trainer
    # At the end of a pass, not of its validation: from there, resuming would repeat or skip batches.
    saving = ModelCheckpoint(
        folder / CHECKPOINT.parent, CHECKPOINT.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    bar = tracking.ProgressBar() if run.progress and sys.stdout.isatty() else None
    try:
        trainer = pl.Trainer(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.num_nodes,
            precision=run.precision,  # type: ignore[arg-type]  # checked against config.PRECISIONS
            max_steps=run.max_steps or -1,
            max_epochs=run.max_epochs or -1,
            gradient_clip_val=config.optim.clip_norm,
            deterministic=run.deterministic,
            use_distributed_sampler=False,  # the data modules share the images out, and pad none
            num_sanity_val_steps=0,
            log_every_n_steps=config.logger.every,
            logger=False,
            callbacks=[cost, saving, *([bar] if bar else [])],
            enable_progress_bar=bar is not None,
            enable_model_summary=False,
            default_root_dir=folder,
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ConfigError(f"trainer: {configfile.one_line(error)}") from error
    # Checkpoints end a pass. Where max_steps is set, Lightning takes each for the middle of one, and skips the next.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    trainer.accumulate_grad_batches = accumulation(config, trainer.world_size)
    return trainer


def accumulation(config: Config, world_size: int) -> int:
    """Batches to a step of the optimizer, so that a step sees `trainer.effective_batch` images.

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


def _test(parts: Parts, checkpoint: Path | None = None) -> dict[str, float]:
    scores = parts.trainer.test(
        parts.task, datamodule=parts.data, ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    return dict(scores[0])


def _metrics(scores: dict[str, float]) -> dict[str, float]:
    """Test scores under their bare names: `test/top1` is `top1`.

    Raises:
        ConfigError: a score is not a number, so the training went wrong.
    """
    for key, value in scores.items():
        if not math.isfinite(value):
            raise ConfigError(f"the training diverged: {key} is {value}; a lower optim.lr may help")
    return {key.removeprefix("test/"): value for key, value in scores.items()}


def _one_image(data: Any) -> torch.Tensor:
    image = data.train[0][0]
    return image[None]


def _checkpoint(folder: Path) -> Path:
    if not (folder / CHECKPOINT).is_file():
        raise ConfigError(f"{folder} has no {CHECKPOINT}; run its experiment again with `dcnlab fit`")
    return folder / CHECKPOINT


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, through the loader that runs no code.

    Raises:
        ConfigError: it is not whole.
    """
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{checkpoint} is no whole checkpoint; run its experiment again with `dcnlab fit`") from error
    if not isinstance(found, dict) or not {"global_step", "state_dict"} <= set(found):
        raise ConfigError(f"{checkpoint} is no checkpoint of a run; run its experiment again with `dcnlab fit`")
    return found


def _check_loss(trainer: pl.Trainer) -> None:
    """Refuse the weights of a training that ended in nan or infinity, which can still score.

    Raises:
        ConfigError: the last training loss is not finite.
    """
    loss = float(trainer.callback_metrics.get("train/loss", 0.0))
    if not math.isfinite(loss):
        raise ConfigError(f"the training diverged: train/loss is {loss} at its end; try a smaller optim.lr")


def _of_the_data(error: BaseException) -> str | None:
    """What the data set says about a file of the user's, such as an image that is broken; None for other errors."""
    if not isinstance(error, ValueError) or isinstance(error, ConfigError):
        return None
    lines = str(error).splitlines()
    if lines and lines[0].startswith("Caught ValueError in DataLoader worker"):  # its traceback is in the message
        frames = [line for line in lines if line.startswith("  File ")]
        in_data = bool(frames) and f"{os.sep}dcnlab{os.sep}data{os.sep}" in frames[-1]
        return lines[-1].removeprefix("ValueError: ") if in_data else None
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return configfile.one_line(error) if frame.f_globals["__name__"].startswith("dcnlab.data.") else None


def _wandb_ids(logger: Any) -> dict[str, str | None]:
    if logger is None:
        return {"id": None, "sweep": None}
    return {"id": logger.experiment.id, "sweep": logger.experiment.sweep_id}


def _finish_wandb(logger: Any, results: dict[str, Any]) -> None:
    """Close the mirror, with the final figures in its summary."""
    if logger is not None:
        logger.experiment.summary.update(results["metrics"] | results["model"])
        logger.experiment.finish(exit_code=0 if results["status"] == "finished" else 1)


@contextlib.contextmanager
def _sole_user(folder: Path) -> Iterator[None]:
    """The first of the run's processes locks the folder for all of them."""
    with runs.lock(folder / ".lock") if tracking.is_first_process() else contextlib.nullcontext():
        yield


class _Terminated(BaseException):
    pass


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception at once, not after the batch: Lightning calls a handler that it finds."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # results.json is about to be written
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
