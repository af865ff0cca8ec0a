"""Weights for a backbone, from a file of torch's, safetensors', numpy's or a run's, and what of them did not match."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from dcnlab import torchfile
from dcnlab.config import TORCHVISION_BACKBONES, ConfigError
from dcnlab.data.files import open_regular
from dcnlab.models import caffe_resnet

_log = logging.getLogger(__name__)


def load(model: nn.Module, name: str, weights: str) -> None:
    """Load a network's weights, without running code from their file, and log by name what did not match.

    A last layer for other classes, offset layers that the file or the network lacks, and the layers of a head that the
    network does not have are skipped and reported; whatever else does not match is an error. The original ResNets'
    names, Caffe's, are recognised, and a warning says what else these weights want.

    Args:
        model: a residual network or its features, under torchvision's names.
        name: of the network, as torchvision has it.
        weights: none; imagenet, torchvision's current ones; the path of a state dict (torch's, .safetensors or .npz),
            or of a run's checkpoint or safetensors, whose backbone is taken.

    Raises:
        ConfigError: no such file or weights, or they do not fit; one line.
    """
    if weights == "none":
        return
    others: list[str] = []
    foreign: list[str] = []
    if weights == "imagenet":
        state = _imagenet(name)
    else:
        state, others = _read(Path(weights))
    if caffe_resnet.recognises(state):
        try:
            state, foreign = caffe_resnet.to_torchvision(state)
        except ValueError as error:
            raise ConfigError(f"model.backbone.weights {weights!r}: {error}") from error
        _log.warning("%s", _wants(model, weights))
    own = model.state_dict()
    head = [key for key in state if key.startswith("fc.") and (key not in own or state[key].shape != own[key].shape)]
    state = {key: value for key, value in state.items() if key not in head}
    wrong = [
        f"{key} is {_shape(value)}, should be {_shape(own[key])}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    absent = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    new = [key for key in absent if key.startswith("fc.") or _of_offsets(key)]
    missing = [key for key in absent if key not in new]
    surplus = [key for key in state if key not in own]
    unused = [key for key in surplus if _of_offsets(key) or key.endswith("num_batches_tracked")]
    unexpected = [key for key in surplus if key not in unused]
    for kind, names in (("of another shape", wrong), ("missing", missing), ("unexpected", unexpected)):
        if names:
            raise ConfigError(f"model.backbone.weights {weights!r} does not fit {name}; {kind}: {_some(names)}")
    model.load_state_dict(state, strict=False)
    unused = [key for key in [*head, *unused, *foreign, *others] if not key.endswith("num_batches_tracked")]
    _log.info("%s", report(weights, sum(key in own for key in state), unused, new))


def report(source: str, loaded: int, unused: Collection[str], new: Collection[str]) -> str:
    """One line: how many tensors were loaded, which of the file were not used, which of the network stay new."""
    parts = [f"weights {source}: {loaded} tensors loaded"]
    if unused:
        parts.append(f"not used: {', '.join(unused)}")
    if new:
        parts.append(f"not in the file and new: {', '.join(new)}")
    return "; ".join(parts)


def _imagenet(name: str) -> dict[str, Tensor]:
    """ImageNet's weights from torchvision's cache or its server."""
    if name not in TORCHVISION_BACKBONES:
        raise ConfigError(f"model.backbone.weights is 'imagenet', which {name} does not have; none or a path")
    try:
        # By default neither hashed, so that a download cut short would be read, nor kept from running code in a cache
        # that others can write to.
        state = models.get_model_weights(name)["DEFAULT"].get_state_dict(check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError, UnpicklingError) as error:
        said = torchfile.reason(error)
        raise ConfigError(
            f"model.backbone.weights is 'imagenet', but {name}'s weights cannot be downloaded ({said}); "
            "name the path of a state dict, or none"
        ) from error
    return dict(state)


def _wants(model: Any, weights: str) -> str:
    """What a network has to be for weights of the original ResNets, beyond their names; one line."""
    mean, std = (",".join(f"{value / 255:.6g}" for value in values) for values in (caffe_resnet.MEANS, (1, 1, 1)))
    line = f"weights {weights} are an original ResNet's, of images with data.mean=[{mean}] data.std=[{std}]"
    block = model.layer2[0]
    if isinstance(block, Bottleneck) and max(block.conv1.stride) < max(block.conv2.stride):
        line += " and strides on 1x1 convolutions: model.backbone.stride_on_1x1=true (dense tasks), which is false here"
    return line


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict, or the backbone's part of a run's checkpoint or of its safetensors, and its other parts' names."""
    if not path.is_file():
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} is no file; takes none, imagenet or a state dict's path"
        )
    try:
        state = _contents(path)
    except Exception as error:  # safetensors and numpy have no one error for files that are not theirs
        said = torchfile.reason(error.__cause__ or error)
        raise ConfigError(f"model.backbone.weights {str(path)!r} cannot be read as a state dict ({said})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state):
        raise ConfigError(f"model.backbone.weights {str(path)!r} is no state dict: names to tensors")
    network, _ = _part(state, "model.")  # of a run's task, whose scores have no part in it
    return _part(network, "backbone.")


def _contents(path: Path) -> Any:
    """What a file holds, read without running code from it."""
    with open_regular(path):  # what the libraries open by name is a regular file
        pass
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        torchfile.check_unpacked(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torchfile.load(path)


def _part(state: dict[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    """What a state dict has under a prefix, without it, and `NAME.*` for its other parts; all of it where it has none.

    A classifier is a backbone under the backbone's own names; other networks have one.
    """
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        return state, []
    others = dict.fromkeys(key.partition(".")[0] for key in state if not key.startswith(prefix))
    return found, [f"{name}.*" for name in others]


def _of_offsets(key: str) -> bool:
    """Whether a tensor is a deformable layer's offset convolution's, or an active layer's offsets."""
    names = key.split(".")
    return "offset_conv" in names or names[-1] == "offset"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"
