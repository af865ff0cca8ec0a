"""The learning rates of an experiment, in a form that does not depend on how gradients are joined."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from dcnlab.config.schema import Config, OptimConfig
from dcnlab.tasks.optim import rate_factor


@dataclass(frozen=True)
class Rates:
    """A schedule, in a form that does not depend on how gradients are joined."""

    batch: int
    """Images of a step."""
    rate: float
    """Base learning rate upon the mean of a step's gradients."""
    images: int | None
    """Of the whole training; None where only its epochs are stated."""
    total: float | None
    """Sum of the rates of all steps: what all images' rates come to."""
    decay: float
    """Weight decay that the optimizer adds to the mean gradient."""

    @property
    def per_image(self) -> float:
        """Rate of one image's gradient: what a program that sums gradients calls its rate."""
        return self.rate / self.batch


def rates(config: Config) -> Rates:
    """The rates of an experiment."""
    batch, steps, optim = _batch(config), config.trainer.max_steps, config.optim
    if steps is None:
        return Rates(batch, optim.lr, None, None, optim.weight_decay)
    return Rates(batch, optim.lr, steps * batch, optim.lr * _factors(optim, steps), optim.weight_decay)


def _batch(config: Config) -> int:
    run = config.trainer
    devices = run.devices if isinstance(run.devices, int) else 1
    return run.effective_batch or config.data.batch_size * devices * run.num_nodes


def _factors(optim: OptimConfig, steps: int) -> float:
    """The sum of all steps' factors of the rate; between two drops they are equal."""
    if optim.schedule == "cosine":
        return sum(rate_factor(step, steps, optim) for step in range(steps))
    warm = min(optim.warmup, steps)
    drops = [math.ceil(mark * steps if mark < 1 else mark) for mark in optim.milestones]
    marks = sorted({warm, steps, *(drop for drop in drops if warm < drop < steps)})
    total = sum(rate_factor(step, steps, optim) for step in range(warm))
    return total + sum((end - start) * rate_factor(start, steps, optim) for start, end in itertools.pairwise(marks))
