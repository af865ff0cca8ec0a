"""The lines that a run prints to standard error: at its start, while it trains, and at its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dcnlab.config import outside
from dcnlab.config.schema import Config
from dcnlab.data.own.found import listed
from dcnlab.metrics.names import is_headline
from dcnlab.nn import DeformConv2d
from dcnlab.nn.offset_statistics import POOLINGS

_STEP = re.compile(r"step (\d+) of (\d+), ")


@dataclass(frozen=True)
class Standing:
    """How far a training is."""

    step: int
    steps: int | None
    """Of the whole training; None where nothing bounds it."""
    epoch: int
    """From 1."""
    epochs: int | None
    loss: float | None
    rate: float
    """Base learning rate of the step."""
    score: tuple[str, float] | None
    """Name and value of the last validation."""
    left: float | None
    """Seconds to the end of the training; None before the second step."""

    def measures(self) -> str:
        """Loss and last score."""
        loss = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        score = [] if self.score is None else [f"{self.score[0]} {self.score[1]:.2f}"]
        return ", ".join([*loss, *score])

    def __str__(self) -> str:
        """One line for a log."""
        left = "" if self.left is None else f"{duration(self.left)} left"
        words = [_of("step", self.step, self.steps), _of("epoch", self.epoch, self.epochs), self.measures()]
        return ", ".join(filter(None, [*words, f"lr {self.rate:.3g}", left]))


def _of(what: str, count: int, total: int | None) -> str:
    return f"{what} {count}" + (f" of {total}" if total is not None else "")


def duration(seconds: float) -> str:
    """Format seconds, such as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def last_standing(log: Sequence[str]) -> tuple[int, int, str] | None:
    """Step, steps and text of the last line of a `Standing` in a log; None where there is none."""
    for line in reversed(log):
        match = _STEP.match(line)
        if match is not None:
            return int(match[1]), int(match[2]), line
    return None


def start_lines(config: Config, data: Any, task: nn.Module, device: str, ranks: int, folder: str) -> list[str]:
    """What a run is made of, at most five lines.

    Args:
        config: of the run.
        data: its data module; a folder of one's own has been described before.
        task: with the network.
        device: of rank 0.
        ranks: that train together.
        folder: of the run.
    """
    lines = [] if getattr(data, "own", None) is not None else _data_lines(config, data)
    kinds = [config.model.name]
    if config.model.backbone.name != config.model.name:
        kinds.append(config.model.backbone.name)
    if layers := config.model.deform_layers:
        kinds.append(f"{layers} {_name(config.model.deform_kind)} layer{'s' * (layers > 1)}")
    count = sum(parameter.numel() for parameter in task.parameters())
    lines.append(f"network: {', '.join(map(_name, kinds))}; {count:,} parameters")
    lines.append(f"device: {device}" + (f", {ranks} ranks" if ranks > 1 else ""))
    return [*lines, f"run: {folder}"]


def _data_lines(config: Config, data: Any) -> list[str]:
    """Data set, root, images of each split, and classes."""
    settings = config.data
    root = f" in {settings.root}" if settings.root else ""
    fold = f", fold {settings.fold}" if settings.fold else ""
    splits = [(key, getattr(data, key, None)) for key in ("train", "val", "test")]
    counts = [f"{key} {len(split):,}" if split is not None else f"no {key}" for key, split in splits]
    classes = list(map(str, data.classes))
    return [
        f"data: {_name(settings.name)}{root}{fold}; images: {', '.join(counts)}",
        f"classes: {len(classes)}: {listed(classes)}",
    ]


def _name(value: Any) -> str:
    """A name of the config; of a class from outside that stands for itself, the class's."""
    return value if isinstance(value, str) else outside.name_of(value)


def _drawn_kind(task: nn.Module) -> list[str] | None:
    """The options with which `dcnlab visualize` draws a network; None: it has nothing to draw."""
    if any(isinstance(module, DeformConv2d) for module in task.modules()):
        return []
    return ["--kind", "rois"] if any(isinstance(module, POOLINGS) for module in task.modules()) else None


def end_lines(config: Config, task: nn.Module, metrics: Mapping[str, float], folder: str) -> list[str]:
    """The scores of a finished run, and the commands that may follow.

    Args:
        config: of the run.
        task: with the network.
        metrics: of the test, percent.
        folder: of the run.
    """
    scores = [f"{key} {value:.2f}" for key, value in metrics.items() if is_headline(key)]
    allow = [f"--allow={module}" for module in outside.modules_of(config)]
    commands = [["evaluate", folder, *allow]]
    drawn = _drawn_kind(task)
    if drawn is not None and not allow:
        commands.append(["visualize", folder, "test:0", *drawn])
    commands.append(["report", config.out])
    lines = [f"test: {', '.join(scores)}"] if scores else []
    for number, words in enumerate(commands):
        lines.append(f"{'' if number else 'next:':6}{shlex.join(['dcnlab', *words])}")
    return lines
