"""Builds the task, a LightningModule, around the network that a config names."""

from __future__ import annotations

from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.tasks.task import Task


def checked_task_module(config: Config, classes: list[str]) -> Task:
    """`task_module`, where the ValueError of a layer becomes a ConfigError.

    Raises:
        ConfigError: a layer refuses an argument of the config.
    """
    try:
        return task_module(config, classes)
    except ConfigError:
        raise
    except ValueError as error:  # by which layers refuse arguments
        raise ConfigError(one_line(error)) from error


def task_module(config: Config, classes: list[str]) -> Task:
    """The task, a LightningModule, around the network that `config.model` names.

    Args:
        config: of the run.
        classes: names in the order of their labels.

    Raises:
        ValueError: a layer refuses an argument of the config.
    """
    from dcnlab.tasks.classification import Classification
    from dcnlab.tasks.detection import Detection
    from dcnlab.tasks.segmentation import Segmentation

    tasks: dict[str, type[Task]] = {
        "classification": Classification,
        "segmentation": Segmentation,
        "detection": Detection,
    }
    return tasks[config.task].from_config(config, classes)
