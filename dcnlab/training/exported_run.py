"""What an export takes from a run: the network with its state, metadata, and the size of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dcnlab.config import names
from dcnlab.config.load import to_yaml
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training import build_data, build_network, checkpoint_file
from dcnlab.training.run_folder import RunFolder

_PREFIX = "model."
_CLASS_LAYERS = {"classification": ("fc.weight", "backbone.fc.weight"), "segmentation": ("classify.weight",)}
"""Weights of the layer with an output for each class."""


def network_state(folder: Path) -> dict[str, Tensor]:
    """The network's state without the task's; averaged weights where the run averages them."""
    state = checkpoint_file.scored(RunFolder(folder))[1]["state_dict"]
    return {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}


def network_of(config: Config, state: dict[str, Tensor]) -> nn.Module:
    """The run's network, ready for evaluation, in float32."""
    class_weight = next(key for key in _CLASS_LAYERS[config.task] if key in state)
    task: Any = build_network.task_module(config, [str(number) for number in range(len(state[class_weight]))])
    task.model.load_state_dict(state)
    built: nn.Module = task.model.float().eval().requires_grad_(False)
    return built


def metadata_of(config: Config, notes: list[str]) -> dict[str, str]:
    """Metadata of a file: name, task, config as YAML, and classes as a JSON list."""
    metadata = {"name": config.name, "task": config.task, "config": to_yaml(config)}
    try:
        classes = config.data.classes or build_data.data_module(config).classes
    except (DataError, OSError) as error:
        notes.append(f"the file does not name the classes, which only the data holds: {one_line(error)}")
        return metadata
    return metadata | {"classes": json.dumps(list(classes))}


def image_size(config: Config) -> tuple[int, int]:
    """Height and width of the experiment's images.

    Raises:
        ConfigError: they have no one size.
    """
    data = config.data
    if names.has_squares(config.task, data.name):
        return data.image_size, data.image_size
    if data.crop_size is None:
        raise ConfigError(f"images of {data.name} have no one size; give one: --size HxW")
    return data.crop_size
