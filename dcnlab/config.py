"""The typed tree that every experiment file is checked against.

One dataclass a section; the text under a field says what it means. Nothing here imports another part of dcnlab.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class ConfigError(ValueError):
    """Something the user can mend; its text is one line that names the field, the value and the nearest right one."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, or None where none is like it at all."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def choose(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        ConfigError: it is not; names the nearest choice and lists them all.
    """
    choices = list(choices)
    if value not in choices:
        near = nearest(value, choices)
        hint = f"nearest: {near}; " if near else ""
        raise ConfigError(f"{name} is {value!r}; {hint}choose from: {', '.join(choices)}")


def within(name: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Check that `value`, where there is one, lies between `low` and `high`, both included.

    Raises:
        ConfigError: it does not.
    """
    if value is not None and not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value:g}; it must be {wanted}")


def folder_name(name: str, value: str | None) -> None:
    """Check that `value`, where there is one, can be the name of a folder inside the runs.

    Raises:
        ConfigError: it cannot.
    """
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", value):
        raise ConfigError(f"{name} is {value!r}; it names a folder: letters, digits and _ . - + = only")


@dataclass
class DataConfig:
    """What the network is trained and scored on."""

    name: str = "digits"
    """digits | imagefolder."""
    root: str | None = None
    """Folder of the data set; none for the embedded digits."""
    classes: list[str] | None = None
    """Class names in the order of their labels; null takes the data set's own."""
    train: str | list[str] = "train"
    """Split, or splits, that the network learns on."""
    val: str | list[str] | None = "val"
    """Split scored during training; null holds a tenth of the training split out (imagefolder)."""
    test: str | list[str] = "test"
    """Split of the final score."""
    batch_size: int = 64
    """Images a process loads at a time."""
    workers: int = 0
    """Loader processes; 0 loads in the training process."""
    image_size: int = 56
    """Height and width of the network's input, pixels (digits: of the scene's canvas; imagefolder: of the crop)."""
    train_length: int | None = None
    """digits: scenes in one pass over the training split; null is one scene a digit."""
    test_length: int | None = None
    """digits: scenes in the final score; null is one scene a digit."""
    rotation: float = 180.0
    """digits: largest rotation to either side, degrees."""
    scale: tuple[float, float] = (1.0, 3.0)
    """digits: range of the side of a digit's 28-pixel cell, in thirds of the canvas."""
    shear: float = 0.3
    """digits: largest shear, as a fraction of the height."""
    warp: float = 0.08
    """digits: largest displacement of the smooth warp, as a fraction of the digit's size."""
    clutter: int = 4
    """digits: pieces of other digits in a scene."""

    def __post_init__(self) -> None:
        choose("data.name", self.name, ("digits", "imagefolder"))
        if self.name != "digits" and self.root is None:
            raise ConfigError(
                f"data.root is null; data.name {self.name} needs the folder of the data set: data.root=FOLDER"
            )
        within("data.batch_size", self.batch_size, 1)
        within("data.workers", self.workers, 0)
        within("data.image_size", self.image_size, 8)
        within("data.train_length", self.train_length, 1)
        within("data.test_length", self.test_length, 1)
        within("data.rotation", self.rotation, 0, 180)
        within("data.shear", self.shear, 0, 1)
        within("data.warp", self.warp, 0, 0.15)
        within("data.clutter", self.clutter, 0)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"data.scale is {list(self.scale)}; it must be two numbers above 0, the smaller one first"
            )


BACKBONES = ("resnet10_slim", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@dataclass
class BackboneConfig:
    """The network under the head."""

    name: str = "resnet50"
    """resnet10_slim (for the embedded digits) | resnet18 | resnet34 | resnet50 | resnet101 | resnet152."""
    weights: str = "none"
    """none | imagenet | the path of a state dict."""

    def __post_init__(self) -> None:
        choose("model.backbone.name", self.name, BACKBONES)


@dataclass
class ModelConfig:
    """The network."""

    name: str = "resnet"
    """resnet: a classifier."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """See BackboneConfig."""
    deform_layers: int = 0
    """How many of the backbone's last 3x3 convolutions are deformable."""
    dilation: int = 1
    """Dilation of the last stage's 3x3 convolutions."""
    offset_groups: int = 1
    """Groups of input channels that share one set of offsets."""
    modulated: bool = False
    """Learn a weight for every sampling point as well (deformable convolution v2)."""

    def __post_init__(self) -> None:
        choose("model.name", self.name, ("resnet",))
        within("model.deform_layers", self.deform_layers, 0)
        within("model.dilation", self.dilation, 1)
        within("model.offset_groups", self.offset_groups, 1)


@dataclass
class OptimConfig:
    """The optimizer, and the course of its learning rate."""

    name: str = "sgd"
    """sgd, with momentum | adamw."""
    lr: float = 0.05
    """Base learning rate at the stated effective batch."""
    momentum: float = 0.9
    """Share of the last step kept in the next (sgd; adamw's first beta)."""
    weight_decay: float = 5e-4
    """On weights alone: biases and norms get none."""
    offset_lr_scale: float = 1.0
    """beta: the offset layers' learning rate over the base one (paper, section 2)."""
    schedule: str = "step"
    """step, at the milestones | cosine, from the end of the warm-up down to zero."""
    milestones: list[float] = field(default_factory=lambda: [2 / 3])
    """Where the rate drops tenfold: fractions of the training below 1, or steps from 1 up."""
    warmup: int = 0
    """Steps of linear warm-up."""
    clip_norm: float | None = None
    """Largest norm of the gradient; null does not clip."""

    def __post_init__(self) -> None:
        choose("optim.name", self.name, ("sgd", "adamw"))
        choose("optim.schedule", self.schedule, ("step", "cosine"))
        within("optim.lr", self.lr, 0)
        within("optim.momentum", self.momentum, 0, 1)
        if self.momentum == 1:
            raise ConfigError("optim.momentum is 1; it must be below 1")
        within("optim.weight_decay", self.weight_decay, 0)
        within("optim.offset_lr_scale", self.offset_lr_scale, 0)
        within("optim.warmup", self.warmup, 0)
        within("optim.clip_norm", self.clip_norm, 0)
        if any(step <= 0 for step in self.milestones) or sorted(set(self.milestones)) != self.milestones:
            raise ConfigError(f"optim.milestones is {self.milestones}; the numbers must be above 0 and grow")


PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")


@dataclass
class TrainerConfig:
    """How long, on what, how precisely."""

    accelerator: str = "auto"
    """auto | cpu | gpu."""
    devices: int | str = "auto"
    """Processes on a machine, one GPU each; auto takes all GPUs, or one CPU process."""
    num_nodes: int = 1
    """Machines."""
    precision: str = "32-true"
    """As Lightning writes it: 32-true | 64-true | 16-mixed | bf16-mixed | 16-true | bf16-true."""
    max_steps: int | None = None
    """Steps of the optimizer."""
    max_epochs: int | None = None
    """Passes over the training split; an experiment states one of the two, and with both the first reached ends it."""
    effective_batch: int | None = None
    """Images a step over all processes; null is batch_size on every process."""
    deterministic: bool = False
    """Bitwise the same weights twice."""
    threads: int | None = None
    """CPU threads a process computes with; null is torch's own choice."""
    progress: bool = True
    """Show a progress bar where there is a terminal."""

    def __post_init__(self) -> None:
        choose("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        choose("trainer.precision", self.precision, PRECISIONS)
        if isinstance(self.devices, int):
            within("trainer.devices", self.devices, 1)
        else:
            choose("trainer.devices", self.devices, ("auto",))
        within("trainer.num_nodes", self.num_nodes, 1)
        within("trainer.max_steps", self.max_steps, 1)
        within("trainer.max_epochs", self.max_epochs, 1)
        within("trainer.effective_batch", self.effective_batch, 1)
        within("trainer.threads", self.threads, 1)


@dataclass
class LoggerConfig:
    """Where figures go beside the run folder's metrics.csv."""

    wandb: bool = True
    """Mirror to Weights & Biases: offline unless WANDB_MODE says otherwise."""
    project: str = "dcnlab"
    """Project on Weights & Biases."""
    entity: str | None = None
    """User or team there; null takes the account's own."""
    every: int = 20
    """Steps between two logged training losses."""

    def __post_init__(self) -> None:
        within("logger.every", self.every, 1)


@dataclass
class Config:
    """One experiment."""

    name: str = "experiment"
    """The run folder's parent: runs/NAME/ID. A file that states none is called by its own name."""
    seed: int = 0
    """Of the weights and of the training order; scenes and splits stay the same."""
    task: str = "classification"
    """classification."""
    out: str = "runs"
    """Where run folders are made."""
    id: str | None = None
    """The run folder's own name; null makes one from the time of day."""
    data: DataConfig = field(default_factory=DataConfig)
    """See DataConfig."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """See ModelConfig."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """See OptimConfig."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """See TrainerConfig."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """See LoggerConfig."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """What a sweep set in this trial, as results.json's `parameters`; filled in by the loader."""

    def __post_init__(self) -> None:
        folder_name("name", self.name)
        folder_name("id", self.id)
        if not self.out:
            raise ConfigError("out is ''; it must be the folder where run folders are made")
        within("seed", self.seed, 0, 2**32 - 1)
        choose("task", self.task, ("classification",))
