"""Reads a file of weights to a state dict, and renames its tensors to torchvision's names and ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dcnlab.config.names import IMAGENET
from dcnlab.io import caffe_file, mxnet_file, torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import open_regular
from dcnlab.models import caffe_resnet, peer_names

BINARY = {".caffemodel": caffe_file.load, ".params": mxnet_file.load}
"""Readers of Caffe's and MXNet's own files, by their endings."""

_log = logging.getLogger(__name__)


def read(path: Path, ending: str | None = None) -> dict[str, Tensor]:
    """The state dict that a file holds, out of its wrappers.

    Args:
        path: of the file.
        ending: by which the file's form is told, such as .params; None is its own.

    Raises:
        ConfigError: it holds none, or cannot be read; one line.
    """
    if not path.is_file():
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} is not a file; takes none, {', '.join(IMAGENET)} or the path of a "
            "state dict"
        )
    try:
        contents = _contents(path, ending)
    except Exception as error:  # safetensors and numpy raise many kinds of errors for other files
        if path.suffix in (".pkl", ".pickle"):
            raise ConfigError(
                f"model.backbone.weights {str(path)!r} is a pickle, which can run code and is not read; where you "
                "trust it, write its arrays with torch.save({name: torch.as_tensor(array), ...}, 'FILE.pth')"
            ) from error
        reason = torch_file.reason(error.__cause__ or error)
        raise ConfigError(f"model.backbone.weights {str(path)!r} cannot be read as a state dict ({reason})") from error
    state, keys = peer_names.unwrap(contents)
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state):
        raise ConfigError(f"model.backbone.weights {str(path)!r} is not a state dict: names to tensors")
    if keys not in ("", "state_dict"):
        _log.info("weights %s: taken from %r", path, keys)
    return state


def _contents(path: Path, ending: str | None = None) -> Any:
    """What a file holds, read without running code from it."""
    with open_regular(path):  # what the libraries open by name is a regular file
        pass
    ending = ending or path.suffix
    if ending == ".safetensors":
        return load_file(path)
    if ending in BINARY:
        return {name: torch.from_numpy(array) for name, array in BINARY[ending](path).items()}
    if ending == ".npz":
        torch_file.check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch_file.load(path, foreign=True)


def renamed(path: Path, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The residual network among a state dict's tensors, under torchvision's names and ours; the names of the rest.

    Raises:
        ConfigError: a norm of Caffe's lacks a part.
    """
    if caffe_resnet.recognises(state):
        try:
            return caffe_resnet.to_torchvision(state)
        except ValueError as error:
            raise ConfigError(f"model.backbone.weights {str(path)!r}: {error}") from error
    state, others, prefixes = peer_names.network(state)
    if len(prefixes) > 1:
        _log.warning("weights %s: of several networks (%s) the first is loaded", path, ", ".join(map(repr, prefixes)))
    if peer_names.is_detectron2(state):
        state = peer_names.from_detectron2(state)
        _log.warning(
            "weights %s: detectron2's names renamed to torchvision's; its model zoo takes blue first and images in 0 "
            "to 255: weights, data.mean and data.std are used as they are",
            path,
        )
    return with_our_offsets(path, state), others


def with_our_offsets(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose offset convolutions have our names, with modulated layers made equal; logs what changed."""
    state, renamed, halved = peer_names.rename_offsets(state)
    if renamed:
        _log.info("weights %s: renamed %s", path, ", ".join(f"{old} to {new}" for old, new in renamed.items()))
    if halved:
        _log.info("weights %s: halved %s, for a factor of twice a sigmoid, not of one", path, ", ".join(halved))
    return state
