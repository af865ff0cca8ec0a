"""Checks before a run starts: devices, ranks, kernels, batch norms, labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from dcnlab.config.schema import Config, TrainerConfig
from dcnlab.data import census
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training.distributed import rank_checks
from dcnlab.training.distributed.rank import is_rank_0

LARGEST_DILATION = 8
"""Of the paper's table 3; it may reach beyond the maps of small images."""


def check_devices(run: TrainerConfig, alone: bool) -> int:
    """Check that the devices exist, and that the launcher started one rank for each.

    Args:
        run: `trainer` of the config.
        alone: whether this process works alone, even if a launcher started several.

    Returns:
        The number of ranks.

    Raises:
        ConfigError: a device or a rank is missing; names the key.
    """
    gpus = torch.cuda.device_count()
    on_cpu = run.accelerator == "cpu" or not gpus
    if on_cpu and run.accelerator == "gpu":
        apples = "; on Apple's, the operators have no kernels" if torch.backends.mps.is_available() else ""
        raise ConfigError(
            f"trainer.accelerator is 'gpu', and torch finds no GPU here (see dcnlab doctor){apples}; take cpu or auto"
        )
    if not on_cpu and isinstance(run.devices, int) and run.devices > gpus:
        raise ConfigError(f"trainer.devices is {run.devices}, and torch finds {gpus} GPUs here")
    if on_cpu and run.precision == "16-mixed" and not alone:
        raise ConfigError("trainer.precision is '16-mixed', which needs a GPU; on a CPU take bf16-mixed or 32-true")
    devices = run.devices if isinstance(run.devices, int) else 1 if on_cpu else gpus
    if not alone:
        rank_checks.check_ranks(devices, run.num_nodes)
    return devices * run.num_nodes


def check_kernels(run: TrainerConfig, task: pl.LightningModule) -> None:
    """Check that the operators of a network can run on the GPUs of the run.

    Raises:
        ConfigError: CuPy is missing, or the GPUs are AMD's; says what to do.
    """
    from dcnlab import nn
    from dcnlab.models.roi_pool import PlainRoIPool

    layers = (nn.ActiveConv2d, nn.DeformConv2d, nn.DeformPSRoIPool, nn.DeformRoIPool, PlainRoIPool)
    if run.accelerator == "cpu" or not torch.cuda.device_count():
        return
    if not any(isinstance(module, layers) for module in task.modules()):
        return
    from dcnlab.ops.cuda import toolkit

    try:
        toolkit.import_cupy()
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"{one_line(error)}; trainer.accelerator=cpu does without") from error


def check_norms(config: Config, data: Any, task: Any, ranks: int) -> None:
    """Check that every batch norm sees more than one value per channel, in the smallest batch of the training.

    Raises:
        ConfigError: one sees a single value; says what to change.
    """
    images = len(data.train) // ranks or 1
    if min(config.data.batch_size, images) != 1:  # training drops a last batch that is not full
        return
    from dcnlab.models.norms import norm_of_one_value

    image = data.train[0, 0][0]
    norm = norm_of_one_value(task.model, image[None])
    if norm is None:
        return
    name, shape = norm
    few = f"data.train has {images} images for each of {ranks} processes"
    batch = f"data.batch_size is {config.data.batch_size}" if config.data.batch_size == 1 else few
    frozen = "" if config.task == "classification" else ", or model.backbone.freeze_norm=true"
    raise ConfigError(
        f"{batch}, and of an image of {image.shape[-2]}x{image.shape[-1]} the batch norm {name} sees a map of "
        f"{shape[-2]}x{shape[-1]}: one value a channel, which it cannot train on; take two images at a time, "
        f"or larger ones{frozen}"
    )


def check_dilation(config: Config, data: Any, task: Any) -> None:
    """Check that a layer of more than the paper's largest dilation has taps on its map.

    Raises:
        ConfigError: all of them but the central one fall outside; names the largest dilation that has some on it.
    """
    if (config.model.dilation or 1) <= LARGEST_DILATION:
        return
    from dcnlab.models.norms import layer_beyond_its_map

    layer = layer_beyond_its_map(task.model, data.train[0, 0][0][None])
    if layer is not None:
        name, _, shape = layer
        raise ConfigError(
            f"model.dilation is {config.model.dilation}, and the map of {name} is {shape[-2]}x{shape[-1]}: all of its "
            f"taps but the central one fall outside; nearest: {max(shape[-2:]) - 1}"
        )


def check_labels(data: Any, splits: Sequence[str]) -> None:
    """Count the classes in the labels, and warn of those without a label, on rank 0.

    Args:
        data: the data module.
        splits: names of its splits.

    Raises:
        ConfigError: the training split has nothing to learn from.
    """
    counts = {}
    for name in splits:
        split = getattr(data, name)
        if hasattr(split, "census"):
            counts[f"data.{name}"] = split.census()
    train = counts.get("data.train")
    if train is not None and train.empty:
        raise ConfigError(f"data.train has {train.nothing}; training needs a split with labels")
    if is_rank_0():
        for line in census.warnings_of(counts):
            logging.getLogger("dcnlab").warning(line)
