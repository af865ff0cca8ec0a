"""Numbers going wrong: offsets that run away, and losses, gradients and weights that are no numbers any more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from dcnlab.io.errors import ConfigError
from dcnlab.io.torch_file import not_finite
from dcnlab.nn import ActiveConv2d, DeformConv2d, DeformPSRoIPool, DeformRoIPool
from dcnlab.training.distributed.collectives import texts_of_all_ranks, true_on_any_rank
from dcnlab.training.outcome import Diverged

CONVOLUTIONS = (DeformConv2d, ActiveConv2d)
POOLINGS = (DeformRoIPool, DeformPSRoIPool)
FAR = 10
"""Longer sides of the map that the mean offset may reach where no limit is stated. One would be too strict: on maps of
a few pixels a high learning rate leads there within steps, in trainings that go on."""
_ADVICE = "a smaller optim.lr or optim.offset_lr_scale may help, or optim.clip_norm"


@dataclass(frozen=True)
class OffsetStatistics:
    """How far a layer's sampling points have moved: a convolution's in pixels of its map, a pooling's in box sides."""

    mean: Tensor
    """Mean length of the offsets."""
    max: Tensor
    """Length of the longest."""
    low: Tensor
    """The least offset along either axis."""
    high: Tensor
    """The greatest."""
    outside: Tensor | None
    """Percentage of a convolution's sampling points that are outside its map; those that a plain convolution has in its
    padding count."""
    side: int | None
    """The longer side of a convolution's map, pixels."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: nn.Module, arguments: tuple[Any, ...]) -> OffsetStatistics:
        """Measure a layer in a forward pass.

        Args:
            layer: one of `CONVOLUTIONS` or `POOLINGS`.
            arguments: of its forward method.
        """
        if isinstance(layer, CONVOLUTIONS):
            [input] = arguments
            offset = layer.offsets(input)[0].float()
            pairs = offset.unflatten(1, (-1, 2))  # (N, groups * taps, (y, x), Ho, Wo)
            return cls._of_pairs(pairs, _share_outside(layer, input, pairs), max(input.shape[-2:]))
        assert isinstance(layer, POOLINGS)
        features, *_, boxes = arguments
        offset = layer.offsets(features, boxes).float() * layer.gamma
        return cls._of_pairs(offset.unflatten(1, (-1, 2)), None, None)

    @classmethod
    def _of_pairs(cls, pairs: Tensor, outside: Tensor | None, side: int | None) -> OffsetStatistics:
        if not pairs.numel():  # no boxes
            pairs = pairs.new_zeros(1, 1, 2, 1, 1)
        length = pairs.norm(dim=2)
        return cls(length.mean(), length.amax(), *pairs.aminmax(), outside, side)

    def exceeds(self, limit: float | None) -> Tensor:
        """Whether an offset is not finite, or a convolution's mean is over `limit`; None: far out of its map."""
        wrong = ~(torch.isfinite(self.low) & torch.isfinite(self.high))
        return wrong if self.side is None else wrong | (self.mean > (FAR * self.side if limit is None else limit))

    def __str__(self) -> str:
        unit = "box sides" if self.side is None else f"pixels on a map of {self.side}"
        return f"from {float(self.low):.4g} to {float(self.high):.4g} {unit}, of mean length {float(self.mean):.4g}"


def _share_outside(conv: nn.Conv2d, input: Tensor, pairs: Tensor) -> Tensor:
    """Percentage of the places (N, groups * taps, (y, x), Ho, Wo) that are in no pixel of the map."""
    kernel, padding = conv.kernel_size, conv._reversed_padding_repeated_twice
    inside = torch.ones((), dtype=torch.bool, device=input.device)
    for axis, first in ((0, padding[2]), (1, padding[0])):
        taps = torch.arange(kernel[axis], device=input.device) * conv.dilation[axis] - first
        units = torch.arange(pairs.shape[3 + axis], device=input.device) * conv.stride[axis]
        # Taps lie row by row.
        base = taps.repeat_interleave(kernel[1]) if axis == 0 else taps.repeat(kernel[0])
        base = base.repeat(pairs.shape[1] // len(base))[:, None, None]
        place = pairs[:, :, axis] + base + (units[:, None] if axis == 0 else units)
        inside = inside & (place > -0.5) & (place < input.shape[2 + axis] - 0.5)
    return 100 * (1 - inside.float().mean())


class Watch(pl.Callback):
    """Logs how far offsets reach, and stops a training whose numbers go wrong, before they reach the checkpoint.

    On a CPU each step is judged before it changes a weight. On a GPU that would be a wait a step, so that only steps
    that are logged are judged, and what is about to be saved; the first step whose loss was bad is known all the same.

    Args:
        limit: `trainer.offset_limit`.
        every: `logger.every`.
    """

    def __init__(self, limit: float | None, every: int) -> None:
        self.limit, self.every = limit, every
        self.statistics: dict[str, OffsetStatistics] = {}
        self._handles: list[RemovableHandle] = []
        self._batch: tuple[Any, int] = (None, 0)
        self._logs = False
        self._first_bad: Tensor | None = None
        self._each_step = True
        self._sums: dict[str, Tensor] = {}
        self._said = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge each step where that is no wait for a GPU."""
        self._each_step = self.judges_each_step(pl_module.device)

    @staticmethod
    def judges_each_step(device: torch.device) -> bool:
        """Whether it costs next to nothing to look at a number there."""
        return device.type == "cpu"

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the layers' offsets in the last batch of a step that is logged."""
        self._batch = batch, batch_idx
        ends = not trainer.fit_loop._should_accumulate()
        self._logs = ends and (trainer.global_step + 1) % self.every == 0
        if self._logs:
            self._handles = self._listen(pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Judge the loss and the offsets, in all processes alike.

        Raises:
            Diverged: they are bad.
        """
        self._unlisten()
        bad = ~torch.isfinite(loss.detach())
        step = torch.where(bad, trainer.global_step, torch.iinfo(torch.int64).max)
        self._first_bad = step if self._first_bad is None else torch.minimum(self._first_bad, step)
        if self._logs or self._each_step:
            self._judge_loss(trainer, pl_module, loss)
        if self._logs and self.statistics:
            names = [name for name, found in self.statistics.items() if found.exceeds(self.limit)]
            complaint = None
            if names:
                found = self.statistics[names[0]]
                complaint = f"the offsets of {names[0]} reach {found}"
                if not torch.isfinite(found.mean):  # which the operator reads zeros at, so that the loss may be fine
                    complaint += f", {self._where(pl_module)}"
            self._agree(trainer, complaint)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the gradients, which can overflow where the loss does not; a scaler of half precision does so itself.

        Raises:
            Diverged: they are bad.
        """
        if (self._logs or self._each_step) and getattr(trainer.precision_plugin, "scaler", None) is None:
            found = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            names = not_finite(found)
            # Gradients go through the network backwards: the last bad layer is the first.
            self._agree(trainer, f"the gradient of {_short(names[-1])} is not finite" if names else None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the statistics of the first process's images."""
        self._batch = None, 0
        if self._logs:
            for name, found in self.statistics.items():
                figures = {"mean": found.mean, "max": found.max, "outside": found.outside}
                pl_module.log_dict({f"offsets/{name}/{key}": x for key, x in figures.items() if x is not None})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the outputs, as in a test."""
        self._look_at_outputs(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the outputs: what is not finite has scores like any other, and NMS drops such boxes."""
        self._look_at_outputs(pl_module)

    def _look_at_outputs(self, pl_module: pl.LightningModule) -> None:
        """Sum what the layers with products put out: whatever is not finite before them is not finite after them."""
        self._sums, self._said = {}, False

        def note(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
            for tensor in _tensors(output):
                # One read without a copy; a sum in single precision does not overflow where half precision has not.
                total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
                before = self._sums.get(name)
                self._sums[name] = total if before is None else before + total

        self._handles = [
            layer.register_forward_hook(partial(note, name))
            for name, layer in _layers(pl_module)
            if isinstance(layer, nn.Linear | _ConvNd) or is_watched(layer)
        ]

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Warn, once a validation, of outputs that are not finite: the training itself may be sound."""
        names, self._sums = not_finite(self._sums), {}
        if names and not self._said:
            self._said = True
            logging.getLogger("dcnlab").warning(
                f"the scores of the validation after step {trainer.global_step} are of no worth: in trainer.precision="
                f"{trainer.precision} the output of {names[0]} is not finite in batch {batch_idx}"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look no longer."""
        self._unlisten()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Judge the outputs of a batch, with one wait for the GPU.

        Raises:
            ConfigError: one is not finite; names the first layer.
        """
        names, self._sums = not_finite(self._sums), {}
        if names:
            self._unlisten()
            with trainer.precision_plugin.test_step_context():
                first = self._first_layer(pl_module, lambda: pl_module.test_step(batch, batch_idx)) or names[0]
            precision = str(trainer.precision)
            advice = "32-true" if precision != "32-true" else "64-true"
            raise ConfigError(
                f"test batch {batch_idx} has no scores: in trainer.precision={precision} the output of {first} is "
                f"not finite; dcnlab evaluate RUN trainer.precision={advice} may score it"
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look no longer."""
        self._unlisten()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Look no longer."""
        self._unlisten()

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge what is about to be saved, in all processes alike.

        Raises:
            Diverged: a loss since the last look was bad, or a weight is.
        """
        self._judge_loss(trainer, pl_module, None)
        names = not_finite(pl_module.state_dict())
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        self._agree(trainer, f"{_short(names[0])}{more} not finite" if names else None)

    def _judge_loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor | None) -> None:
        first = torch.iinfo(torch.int64).max if self._first_bad is None else int(self._first_bad)
        bad = first <= trainer.global_step
        if true_on_any_rank(trainer, bad)[0]:
            self._agree(trainer, self._cause(pl_module, loss) if bad else None, first if bad else None)

    def _cause(self, pl_module: pl.LightningModule, loss: Tensor | None) -> str:
        """What is wrong with the loss of the batch at hand, and in which layer it begins."""
        value = "not finite" if loss is None or torch.isfinite(loss) else str(loss.item())
        names = not_finite(dict(pl_module.named_parameters()))
        if len(names) > 1:  # spoilt by the steps since, on a GPU
            return f"train/loss is {value}, and {len(names)} weights are not finite by now, {_short(names[0])} first"
        where = "" if self._batch[0] is None else f", {self._where(pl_module)}"
        return f"train/loss is {value}{where}"

    def _where(self, pl_module: pl.LightningModule) -> str:
        """Where the training batch at hand is no longer finite, when it is run again."""
        if not all(torch.isfinite(tensor).all() for tensor in _tensors(self._batch[0])):
            return "as are its images"
        self._handles = self._listen(pl_module)
        # In the training's precision: what overflows in half precision is fine in float32.
        with torch.no_grad(), pl_module.trainer.precision_plugin.train_step_context():
            first = self._first_layer(pl_module, lambda: pl_module.training_step(*self._batch))
        return "in the loss itself" if first is None else f"first in {first}"

    def _first_layer(self, pl_module: pl.LightningModule, step: Callable[[], Any]) -> str | None:
        """The first layer whose output is not finite when `step` is run again; None where all are."""
        found: list[str] = []

        def look(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
            if not found and not all(torch.isfinite(tensor).all() for tensor in _tensors(output)):
                found.append(name)

        self._handles += [layer.register_forward_hook(partial(look, name)) for name, layer in _layers(pl_module)]
        step()
        self._unlisten()
        return found[0] if found else None

    def _agree(self, trainer: pl.Trainer, complaint: str | None, step: int | None = None) -> None:
        """Raise in all processes where one has something to complain of."""
        if not true_on_any_rank(trainer, complaint is not None)[0]:
            return
        text = self._text(trainer, complaint, step) if complaint is not None else None
        raise Diverged(next(found for found in texts_of_all_ranks(trainer, text) if found is not None))

    def _text(self, trainer: pl.Trainer, complaint: str, step: int | None) -> str:
        wide = max(
            self.statistics, key=lambda name: float(self.statistics[name].mean.nan_to_num(torch.inf)), default=""
        )
        reach = f"; the offsets of {wide} reach {self.statistics[wide]}" if wide and "reach" not in complaint else ""
        step = trainer.global_step if step is None else step
        return f"the training diverged in step {step}: {complaint}{reach}; {_ADVICE}"

    def _listen(self, pl_module: pl.LightningModule) -> list[RemovableHandle]:
        self.statistics = {}

        def note(name: str, layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            found = OffsetStatistics.of(layer, arguments)
            before = self.statistics.get(name)
            if before is None or bool(found.mean > before.mean):  # a layer that is used twice
                self.statistics[name] = found

        return [
            layer.register_forward_hook(partial(note, name))
            for name, layer in _network(pl_module).named_modules()
            if is_watched(layer)
        ]

    def _unlisten(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def is_watched(layer: nn.Module) -> bool:
    """Whether it learns offsets."""
    return isinstance(layer, CONVOLUTIONS + POOLINGS)


def _network(pl_module: pl.LightningModule) -> nn.Module:
    """The task's network, whose layers' names are those of `surgery.conv_layers`; a module without one is it itself."""
    network = getattr(pl_module, "model", pl_module)
    assert isinstance(network, nn.Module)
    return network


def _layers(pl_module: pl.LightningModule) -> list[tuple[str, nn.Module]]:
    """Its layers that hold no others, and those that learn offsets."""
    return [(n, m) for n, m in _network(pl_module).named_modules() if not any(m.children()) or is_watched(m)]


def _short(name: str) -> str:
    return name.removeprefix("model.")


def _tensors(nest: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested containers."""
    if isinstance(nest, Tensor):
        if nest.is_floating_point():
            yield nest
    elif isinstance(nest, dict):
        for value in nest.values():
            yield from _tensors(value)
    elif isinstance(nest, list | tuple):
        for value in nest:
            yield from _tensors(value)
