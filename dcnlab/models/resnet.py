"""Residual networks that classify, with their last 3x3 convolutions deformable (paper, section 4.2)."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, conv1x1

from dcnlab.config import BACKBONES, ConfigError
from dcnlab.surgery import deform, dilate


def resnet10_slim(num_classes: int = 10) -> nn.Module:
    """Ten layers for small pictures such as the embedded digits: four of torchvision's basic blocks, 16 to 48 channels.

    The last block keeps its resolution, stride 8 over all, as the paper's dense networks do: a 56-pixel input ends at
    7x7, where offsets have room. A maximum, not a mean, ends the map: the digit covers a small part of it.

    Args:
        num_classes: size of the last layer.
    """
    channels, strides = (16, 24, 32, 48), (1, 2, 2, 1)
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels[0]),
        relu=nn.ReLU(inplace=True),
    )
    before = channels[0]
    for number, (after, stride) in enumerate(zip(channels, strides, strict=True), start=1):
        shortcut = None
        if stride != 1 or before != after:
            shortcut = nn.Sequential(conv1x1(before, after, stride), nn.BatchNorm2d(after))
        stages[f"layer{number}"] = nn.Sequential(BasicBlock(before, after, stride, shortcut))
        before = after
    stages.update(maxpool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(1), fc=nn.Linear(before, num_classes))
    model = nn.Sequential(stages)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def classifier(
    name: str,
    num_classes: int,
    weights: str = "none",
    deform_layers: int = 0,
    dilation: int = 1,
    offset_groups: int = 1,
    modulated: bool = False,
) -> nn.Module:
    """Build a residual network that classifies.

    Args:
        name: resnet18, 34, 50, 101, 152 as torchvision has them, or resnet10_slim.
        num_classes: size of the last layer.
        weights: none; imagenet, torchvision's current ones without their last layer; or the path of a state dict.
        deform_layers: how many of the last 3x3 convolutions become deformable.
        dilation: of the last stage's 3x3 convolutions, deformable or not.
        offset_groups: groups of input channels that share one set of offsets.
        modulated: whether deformable layers also learn a weight for every sampling point.

    Returns:
        A network from images (N, 3, H, W), normalised, to logits (N, num_classes).

    Raises:
        ConfigError: no such network or weights, or the weights do not fit; one line.
    """
    if name not in BACKBONES:
        raise ConfigError(f"model.backbone.name is {name!r}; there are {', '.join(BACKBONES)}")
    model = resnet10_slim(num_classes) if name == "resnet10_slim" else models.get_model(name, num_classes=num_classes)
    if weights != "none":
        _load(model, _imagenet(name) if weights == "imagenet" else _read(Path(weights)), weights)
    if dilation > 1:
        dilate(model, "layer4.*", dilation)
    if deform_layers > 0:
        try:
            deform(model, deform_layers, offset_groups=offset_groups, modulated=modulated)
        except ValueError as error:
            asked = f"model.deform_layers is {deform_layers}, model.offset_groups {offset_groups}"
            raise ConfigError(f"{asked}, which {name} does not allow; {error}") from error
    # The deformable operator's own order of axes, so that no layer copies its input.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves this one out


def _imagenet(name: str) -> dict[str, Tensor]:
    """ImageNet's weights from torchvision's cache or its server."""
    if name == "resnet10_slim":
        raise ConfigError("model.backbone.weights is 'imagenet', which resnet10_slim does not have; none or a path")
    try:
        # Not `check_hash`-ed by default: a download cut short would be read as weights.
        state = models.get_model_weights(name)["DEFAULT"].get_state_dict(check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.backbone.weights is 'imagenet', but {name}'s weights cannot be downloaded ({_first_line(error)}); "
            "name the path of a state dict, or none"
        ) from error
    return dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, without running code from the file."""
    if not path.is_file():
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} is no file; takes none, imagenet or a state dict's path"
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ConfigError(
            f"model.backbone.weights {str(path)!r} cannot be read as a state dict ({_first_line(error)})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"model.backbone.weights {str(path)!r} is no state dict: names to tensors")
    return state


def _load(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load all weights but the last layer's, which stays new where the number of classes differs."""
    own = model.state_dict()
    state = {key: value for key, value in state.items() if not _is_other_head(key, value, own)}
    wrong = [
        f"{key} is {_shape(value)}, should be {_shape(own[key])}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    missing = [key for key in own if key not in state and not key.startswith("fc.") and "num_batches" not in key]
    unexpected = [key for key in state if key not in own]
    for kind, names in (("of another shape", wrong), ("missing", missing), ("unexpected", unexpected)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ConfigError(f"model.backbone.weights {source!r} does not fit the network; {kind}: {shown}")
    model.load_state_dict(state, strict=False)


def _is_other_head(key: str, value: Tensor, own: dict[str, Tensor]) -> bool:
    return key in ("fc.weight", "fc.bias") and value.shape != own[key].shape


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
