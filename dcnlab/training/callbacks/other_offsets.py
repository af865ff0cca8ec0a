"""OtherOffsets: tests a deformable network with other offsets than those that it predicts (`test.offsets`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import default_collate

from dcnlab.config.schema import Config
from dcnlab.data.seeding import mix
from dcnlab.io.errors import ConfigError
from dcnlab.nn import DeformConv2d
from dcnlab.nn.replaced_offsets import ReplacedOffsets
from dcnlab.training.callbacks.layer_hooks import network_of


def check(config: Config, network: nn.Module, images: int) -> None:
    """Check that a network can be tested with `test.offsets`.

    Args:
        config: of the run.
        network: that is tested.
        images: in the test split.

    Raises:
        ConfigError: it has no deformable convolution, or there is no other image.
    """
    kind = config.test.offsets
    if kind == "predicted":
        return
    if not any(isinstance(module, DeformConv2d) for module in network.modules()):
        model = config.model
        raise ConfigError(
            f"test.offsets is {kind}; the network has no deformable convolution: model.deform_layers is "
            f"{model.deform_layers}, model.deform_kind {model.deform_kind}; predicted tests it as it is"
        )
    if kind == "other_image" and images < 2:
        raise ConfigError(f"test.offsets is other_image; data.test has {images} images, and it takes two or more")


def other_images(images: int, seed: int) -> list[int]:
    """For each image of a test split another one, each once: a random cycle through all images.

    Args:
        images: how many, at least two.
        seed: of the run.
    """
    generator = torch.Generator().manual_seed(mix(seed, *b"other_image"))
    order = torch.randperm(images, generator=generator).tolist()
    others = dict(zip(order, order[1:] + order[:1], strict=True))
    return [others[image] for image in range(images)]


class OtherOffsets(pl.Callback):
    """Replaces the offsets of deformable convolutions during the test.

    Args:
        kind: zero; mean, of each layer over all images and locations of the test split; or other_image.
        seed: of the choice of other images.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._seed = kind, seed
        self._offsets: ReplacedOffsets | None = None
        self._others: list[int] = []
        self._tested = 0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the offsets by constants, for the mean after one forward pass over the test split."""
        self._offsets, self._tested = ReplacedOffsets(network_of(pl_module)), 0
        if self._kind == "zero":
            self._offsets.by_zero()
        elif self._kind == "mean":
            self._offsets.by_constants(self._means(trainer, pl_module))
        else:
            self._others = other_images(len(_data(trainer).test), self._seed)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Predict the offsets of the other images, one by one."""
        if self._kind != "other_image" or self._offsets is None or not len(batch[0]):
            return
        data, recorded = _data(trainer), []
        collate = data.collate or default_collate
        for _ in range(len(batch[0])):
            # Rank r tests the images r, r + world and so on: see `EvaluationSampler`.
            image = self._tested * trainer.world_size + trainer.global_rank
            self._tested += 1
            with self._offsets.recording() as calls:
                _forward(trainer, pl_module, collate([data.test[self._others[image]]]))
            recorded.append(calls)
        self._offsets.by_other_images(recorded)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the layers predict again."""
        if self._offsets is not None:
            self._offsets.restore()
            self._offsets = None

    def _means(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[torch.Tensor]:
        """The mean of what each layer predicts, over the test split of all ranks."""
        assert self._offsets is not None
        with self._offsets.summing() as sums:
            for batch in _data(trainer).test_dataloader():
                if len(batch[0]):
                    _forward(trainer, pl_module, batch)
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, sums)
            sums = [torch.stack(layer).sum(0) for layer in zip(*parts, strict=True)]
        return [layer[:-1] / layer[-1] for layer in sums]


def _data(trainer: pl.Trainer) -> Any:
    """The data module."""
    return trainer.datamodule  # type: ignore[attr-defined]


def _forward(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Sequence[Any]) -> None:
    """Run the network on a batch of the test split."""
    precision = trainer.precision_plugin
    images = trainer.strategy.batch_to_device(precision.convert_input(batch[0]))
    context: AbstractContextManager[Any] = precision.test_step_context()
    with context:
        pl_module(images)
