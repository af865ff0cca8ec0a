"""Weights for a backbone: torchvision's, a state dict's or a run's checkpoint's, and what of them did not match."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from dcnlab.config import TORCHVISION_BACKBONES, ConfigError

_log = logging.getLogger(__name__)


def load(model: nn.Module, name: str, weights: str) -> None:
    """Load a network's weights, without running code from their file, and log by name what did not match.

    A last layer for other classes, offset layers that the file or the network lacks, and the layers of a head that the
    network does not have are skipped and reported; whatever else does not match is an error.

    Args:
        model: a residual network or its features, under torchvision's names.
        name: of the network, as torchvision has it.
        weights: none; imagenet, torchvision's current ones; the path of a state dict, or of a run's checkpoint, whose
            backbone is taken.

    Raises:
        ConfigError: no such file or weights, or they do not fit; one line.
    """
    if weights == "none":
        return
    state = _imagenet(name) if weights == "imagenet" else _read(Path(weights))
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
    unused = [key for key in [*head, *unused] if not key.endswith("num_batches_tracked")]
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
        # Not `check_hash`-ed by default: a download cut short would be read as weights.
        state = models.get_model_weights(name)["DEFAULT"].get_state_dict(check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.backbone.weights is 'imagenet', but {name}'s weights cannot be downloaded ({_reason(error)}); "
            "name the path of a state dict, or none"
        ) from error
    return dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, or the backbone's part of a run's checkpoint."""
    if not path.is_file():
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} is no file; takes none, imagenet or a state dict's path"
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error of its own for other files: KeyError for a text, and what not
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} cannot be read as a state dict ({_reason(error)})"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = _of_backbone(state["state_dict"])
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state):
        raise ConfigError(f"model.backbone.weights {str(path)!r} is no state dict: names to tensors")
    return state


def _of_backbone(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's backbone under the backbone's own names: a classifier is one, other networks have one."""
    for prefix in ("model.backbone.", "model."):
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if found:
            return found
    return state


def _of_offsets(key: str) -> bool:
    """Whether a tensor is a deformable layer's offset convolution's, or an active layer's offsets."""
    names = key.split(".")
    return "offset_conv" in names or names[-1] == "offset"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ")
