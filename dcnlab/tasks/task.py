"""Base class of the tasks: hyperparameters in the checkpoint, from which the task is built again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pytorch_lightning import LightningModule
from torch import nn

from dcnlab.config import identity, outside
from dcnlab.config.load import from_settings
from dcnlab.config.schema import Config, OptimConfig, TestConfig
from dcnlab.data.digits.scenes import MEAN, STD
from dcnlab.io import torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.confusion import Confusion
from dcnlab.metrics.image_records import ImageRecord
from dcnlab.models.build import build_network


class Task(LightningModule):
    """Trains and scores a network; usable with any Trainer.

    `hparams` holds plain values, as every checkpoint does: `classes`, `optim`, `test` and what else the task takes,
    and `settings`, from which `load_from_checkpoint` builds the network of a config again.

    Args:
        model: the network.
        classes: class names in the order of their labels.
        optim: rates, decay and schedule; None: the defaults.
        test: how the network is tested; None: the defaults.
        others: plain values that the task takes as well.
    """

    config: Config | None
    """The config that the task was built from; None: its network was given."""
    test_record: ImageRecord | None
    """After a test, on rank 0: what the scores were made of; its images are positions in the test split."""
    confusion: Confusion | None
    """After a test of classes: how often each was found as which, over all ranks."""

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optim: OptimConfig | None,
        test: TestConfig | None,
        **others: Any,
    ) -> None:
        super().__init__()
        self.model, self.classes, self.config = model, list(classes), None
        self.test_record, self.confusion = None, None
        self.optim, self.testing = optim or OptimConfig(), test or TestConfig()
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in others.items()}
        sections = {"optim": dataclasses.asdict(self.optim), "test": dataclasses.asdict(self.testing)}
        self.save_hyperparameters({"classes": self.classes, **sections, **plain}, logger=False)

    @classmethod
    def from_config(cls, config: Config, classes: Sequence[str]) -> Self:
        """The task around the network that `config.model` names.

        Args:
            config: of the run.
            classes: names in the order of their labels.

        Raises:
            ConfigError: the network cannot be built so.
            ValueError: a layer refuses an argument of the config.
        """
        network = build_network(config, len(classes))
        task = cls(network, classes, config.optim, config.test, **cls._arguments(config))
        task.config = config
        task.save_hyperparameters({**task.hparams, "settings": identity.settings(config)}, logger=False)
        return task

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        *,
        allow: Sequence[outside.Allowed] = (),
        **arguments: Any,
    ) -> Self:
        """The task of a checkpoint, in training mode, as Lightning's method of that name; no code in the file is run.

        Args:
            checkpoint_path: of a checkpoint by any Trainer.
            map_location: device to move the task to; None is the CPU.
            hparams_file: not used.
            strict: whether all weights have to be in the file; None is True.
            weights_only: not used: the file is always read so.
            allow: classes from outside that may be imported, see `dcnlab.config.outside`.
            arguments: of the constructor, in place of those in the checkpoint: `model` where the network was given.

        Raises:
            ConfigError: the checkpoint does not say what to build, or holds another network.
        """
        try:
            content = torch_file.load(Path(checkpoint_path))
        except ValueError as error:
            raise ConfigError(f"{checkpoint_path} is not a whole checkpoint ({error})") from error
        saved = content.get("hyper_parameters") if isinstance(content, dict) else None
        if not isinstance(saved, dict) or not isinstance(content.get("state_dict"), dict):
            raise ConfigError(f"{checkpoint_path} holds no hyper_parameters of a task; dcnlab.load(RUN) reads old runs")
        if "model" in arguments:
            task = cls(**_sections({**saved, **arguments}))
        elif isinstance(saved.get("settings"), dict):
            config = from_settings(saved["settings"], str(checkpoint_path), outside.sequence(allow))
            config.model.backbone.weights = "none"  # the checkpoint holds them
            classes: list[str] = arguments.get("classes") or saved["classes"]
            task = cls.from_config(config, classes)
        else:
            raise ConfigError(f"{checkpoint_path} is of a network that was given to the task; give it again: model=...")
        try:
            task.load_state_dict(content["state_dict"], strict=strict is not False)
        except RuntimeError as error:
            raise ConfigError(f"{checkpoint_path} holds another network: {error}") from error
        return task if map_location is None else task.to(map_location)

    def _is_drawn(self, position: int) -> bool:
        """Whether an image of the test is drawn: as many as `test.pictures` says, spread over the split.

        Args:
            position: of the image among those that this rank tests.
        """
        split: Any = getattr(getattr(self.trainer, "datamodule", None), "test", None)
        count = self.testing.pictures
        if split is None or count < 1:
            return position < count
        batches = self.trainer.num_test_batches[0]
        batch_size = getattr(self.trainer.datamodule, "evaluation_batch_size", 1)  # type: ignore[attr-defined]
        images = int(min(-(-len(split) // self.trainer.world_size), batches * batch_size))
        return position in {number * images // count for number in range(count)}

    @classmethod
    def _arguments(cls, config: Config) -> dict[str, Any]:
        """The constructor's arguments from a config, in addition to network, classes, optim and test."""
        return {}


def _sections(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters as arguments of the constructor."""
    hyperparameters = {key: value for key, value in arguments.items() if key != "settings"}
    for key, section in (("optim", OptimConfig), ("test", TestConfig)):
        if isinstance(hyperparameters.get(key), Mapping):
            hyperparameters[key] = section(**hyperparameters[key])
    return hyperparameters


def normalisation(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by which the images of a config's data set are normalised."""
    if config.data.name == "digits":
        return (MEAN,) * 3, (STD,) * 3
    return tuple(config.data.mean), tuple(config.data.std)
