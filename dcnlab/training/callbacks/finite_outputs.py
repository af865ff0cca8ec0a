"""Checks that layers' outputs are finite: a warning after a validation, an error in a test."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dcnlab.io.errors import ConfigError
from dcnlab.io.torch_file import not_finite
from dcnlab.nn.offset_statistics import learns_offsets
from dcnlab.training.callbacks import layer_hooks


class FiniteOutputs(pl.Callback):
    """Looks at the outputs of all layers with matrix products, with one wait for the GPU in each batch.

    A value that is not finite may not show in the metrics: NMS drops boxes with such scores.
    """

    def __init__(self) -> None:
        self._handles: list[layer_hooks.Handle] = []
        self._sums: dict[str, Tensor] = {}
        self._warned = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to sum outputs."""
        self._sum_outputs(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to sum outputs."""
        self._sum_outputs(pl_module)

    def _sum_outputs(self, pl_module: pl.LightningModule) -> None:
        """Sum the outputs of the layers with products; values that are not finite before them are not finite after."""
        self._sums, self._warned = {}, False

        def add(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
            for tensor in layer_hooks.float_tensors(output):
                # One read without a copy. A sum in float32 does not overflow where half precision has not.
                total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
                before = self._sums.get(name)
                self._sums[name] = total if before is None else before + total

        self._handles = layer_hooks.listen(
            pl_module, add, lambda layer: isinstance(layer, nn.Linear | _ConvNd) or learns_offsets(layer)
        )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Warn, once in a validation, of outputs that are not finite; the training itself may be sound."""
        names, self._sums = not_finite(self._sums), {}
        if names and not self._warned:
            self._warned = True
            logging.getLogger("dcnlab").warning(
                f"the scores of the validation after step {trainer.global_step} are worthless: in trainer.precision="
                f"{trainer.precision} the output of {names[0]} is not finite in batch {batch_idx}"
            )

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Refuse to score outputs that are not finite.

        Raises:
            ConfigError: one is not; names the first layer.
        """
        names, self._sums = not_finite(self._sums), {}
        if not names:
            return
        layer_hooks.remove(self._handles)
        with trainer.precision_plugin.test_step_context():
            first = layer_hooks.first_layer_not_finite(pl_module, lambda: pl_module.test_step(batch, batch_idx))
        precision = str(trainer.precision)
        advice = "32-true" if precision != "32-true" else "64-true"
        raise ConfigError(
            f"test batch {batch_idx} has no scores: in trainer.precision={precision} the output of "
            f"{first or names[0]} is not finite; dcnlab evaluate RUN trainer.precision={advice} may score it"
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks."""
        layer_hooks.remove(self._handles)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks."""
        layer_hooks.remove(self._handles)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        layer_hooks.remove(self._handles)
