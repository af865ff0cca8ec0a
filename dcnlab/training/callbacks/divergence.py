"""Stops training on divergence: exploding offsets, or non-finite losses, gradients or weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dcnlab.io.torch_file import not_finite
from dcnlab.nn.offset_statistics import OffsetStatistics, learns_offsets
from dcnlab.training.callbacks import layer_hooks
from dcnlab.training.distributed.collectives import texts_of_all_ranks, true_on_any_rank
from dcnlab.training.outcome import Diverged

_ADVICE = "a smaller optim.lr or optim.offset_lr_scale may help, or optim.clip_norm"
_NEVER = torch.iinfo(torch.int64).max


class StopOnDivergence(pl.Callback):
    """Logs offset statistics, and stops a training that diverges before its weights reach the checkpoint.

    On a CPU it checks each step before the weights change. On a GPU a check is a wait, so it checks the steps that are
    logged and the weights that are about to be saved. The first step with a bad loss is known even so.

    Args:
        limit: `trainer.offset_limit`.
        every: `logger.every`.
    """

    def __init__(self, limit: float | None, every: int) -> None:
        self.limit, self.every = limit, every
        self.statistics: dict[str, OffsetStatistics] = {}
        """Of each layer that learns offsets, in the last batch of a logged step."""
        self._handles: list[layer_hooks.Handle] = []
        self._batch: tuple[Any, int] = (None, 0)
        self._logs_step = False
        self._checks_each_step = True
        self._first_bad: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check each step on devices where reading a value is cheap."""
        self._checks_each_step = self.checks_each_step(pl_module.device)

    @staticmethod
    def checks_each_step(device: torch.device) -> bool:
        """Whether reading a value from the device is cheap, as on a CPU."""
        return device.type == "cpu"

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure offsets in the last batch of a step that is logged."""
        self._batch = batch, batch_idx
        ends_step = not trainer.fit_loop._should_accumulate()
        self._logs_step = ends_step and (trainer.global_step + 1) % self.every == 0
        if self._logs_step:
            self._measure_offsets(pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Check the loss and the offsets.

        Raises:
            Diverged: on all ranks, where one of them has a bad value.
        """
        layer_hooks.remove(self._handles)
        bad = ~torch.isfinite(loss.detach())
        step = torch.where(bad, trainer.global_step, _NEVER)
        self._first_bad = step if self._first_bad is None else torch.minimum(self._first_bad, step)
        if self._logs_step or self._checks_each_step:
            self._check_loss(trainer, pl_module, loss)
        if self._logs_step and self.statistics:
            self._raise_together(trainer, self._offset_complaint(pl_module))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradients, which can overflow where the loss does not; a gradient scaler does so itself.

        Raises:
            Diverged: on all ranks, where one of them has a bad gradient.
        """
        checks = self._logs_step or self._checks_each_step
        if checks and getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            names = not_finite(gradients)
            # Gradients go through the network backwards, so the last bad layer is the first that they reached.
            self._raise_together(trainer, f"the gradient of {_short(names[-1])} is not finite" if names else None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the offset statistics of rank 0's images."""
        self._batch = None, 0
        if self._logs_step:
            for name, offsets in self.statistics.items():
                values = {"mean": offsets.mean, "max": offsets.max, "outside": offsets.outside}
                pl_module.log_dict({f"offsets/{name}/{key}": x for key, x in values.items() if x is not None})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        layer_hooks.remove(self._handles)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights that are about to be saved.

        Raises:
            Diverged: on all ranks, where a loss since the last check was bad, or a weight is.
        """
        self._check_loss(trainer, pl_module, None)
        names = not_finite(pl_module.state_dict())
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        self._raise_together(trainer, f"{_short(names[0])}{more} not finite" if names else None)

    def _measure_offsets(self, pl_module: pl.LightningModule) -> None:
        """Have the next forward pass fill `statistics`."""
        self.statistics = {}

        def measure(name: str, layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            offsets = OffsetStatistics.of(layer, arguments)
            before = self.statistics.get(name)
            if before is None or bool(offsets.mean > before.mean):  # a layer that is used twice
                self.statistics[name] = offsets

        self._handles = layer_hooks.listen(pl_module, measure, learns_offsets)

    def _offset_complaint(self, pl_module: pl.LightningModule) -> str | None:
        names = [name for name, offsets in self.statistics.items() if offsets.exceeds(self.limit)]
        if not names:
            return None
        offsets = self.statistics[names[0]]
        complaint = f"the offsets of {names[0]} reach {offsets}"
        if not torch.isfinite(offsets.mean):  # the operator reads zeros there, so that the loss may be finite
            complaint += f", {self._where(pl_module)}"
        return complaint

    def _check_loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor | None) -> None:
        first = _NEVER if self._first_bad is None else int(self._first_bad)
        bad = first <= trainer.global_step
        if true_on_any_rank(trainer, bad)[0]:
            complaint = self._loss_complaint(pl_module, loss) if bad else None
            self._raise_together(trainer, complaint, first if bad else None)

    def _loss_complaint(self, pl_module: pl.LightningModule, loss: Tensor | None) -> str:
        """Why the current batch's loss is wrong, and the first layer whose output is."""
        value = "not finite" if loss is None or torch.isfinite(loss) else str(loss.item())
        names = not_finite(dict(pl_module.named_parameters()))
        if len(names) > 1:  # on a GPU: the steps since the bad loss have changed them
            return f"train/loss is {value}, and {len(names)} weights are not finite by now, {_short(names[0])} first"
        where = "" if self._batch[0] is None else f", {self._where(pl_module)}"
        return f"train/loss is {value}{where}"

    def _where(self, pl_module: pl.LightningModule) -> str:
        """Where the training batch at hand is not finite; runs it again."""
        if not layer_hooks.are_finite(self._batch[0]):
            return "as are its images"
        self._measure_offsets(pl_module)
        # In the training's precision: what overflows in half precision is finite in float32.
        with torch.no_grad(), pl_module.trainer.precision_plugin.train_step_context():
            first = layer_hooks.first_layer_not_finite(pl_module, lambda: pl_module.training_step(*self._batch))
        layer_hooks.remove(self._handles)
        return "in the loss itself" if first is None else f"first in {first}"

    def _raise_together(self, trainer: pl.Trainer, complaint: str | None, step: int | None = None) -> None:
        """Raise Diverged on all ranks where one has a complaint."""
        if not true_on_any_rank(trainer, complaint is not None)[0]:
            return
        text = self._message(trainer, complaint, step) if complaint is not None else None
        raise Diverged(next(text for text in texts_of_all_ranks(trainer, text) if text is not None))

    def _message(self, trainer: pl.Trainer, complaint: str, step: int | None) -> str:
        def mean(name: str) -> float:
            return float(self.statistics[name].mean.nan_to_num(torch.inf))

        widest = max(self.statistics, key=mean, default="")
        reach = f"; the offsets of {widest} reach {self.statistics[widest]}" if widest else ""
        if "reach" in complaint:
            reach = ""
        step = trainer.global_step if step is None else step
        return f"the training diverged in step {step}: {complaint}{reach}; {_ADVICE}"


def _short(name: str) -> str:
    return name.removeprefix("model.")
