"""Classifiers: residual networks whose last 3x3 convolutions are deformable (paper, section 4.2)."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, conv1x1

from dcnlab.config import outside
from dcnlab.config.names import BACKBONES
from dcnlab.io.errors import ConfigError
from dcnlab.models.aligned_inception_resnet import aligned_inception_resnet
from dcnlab.models.weights import load
from dcnlab.surgery import LayerKindError, activate, add_maps, deform, dilate, dilate_offsets, transform_input

_log = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound=nn.Module)


class GlobalMaxPool(nn.Module):
    """The maximum over all pixels, (N, C, H, W) to (N, C); unlike AdaptiveMaxPool2d deterministic on a GPU too."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool; pixels of the same maximum divide its gradient."""
        return features.amax((2, 3))


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
    stages.update(maxpool=GlobalMaxPool(), fc=nn.Linear(before, num_classes))
    model = nn.Sequential(stages)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def residual_network(name: str, num_classes: int = 1000) -> nn.Module:
    """One of torchvision's residual networks, `resnet10_slim` or Aligned-Inception-ResNet, with new weights.

    Raises:
        ConfigError: there is no such network.
    """
    if name not in BACKBONES:
        raise ConfigError(f"model.backbone.name is {name!r}; there are {', '.join(BACKBONES)}")
    ours = {"resnet10_slim": resnet10_slim, "aligned_inception_resnet": aligned_inception_resnet}
    return ours[name](num_classes) if name in ours else models.get_model(name, num_classes=num_classes)


class SurgeryOptions(TypedDict, total=False):
    """Further options of `operate`, which the builders of all networks hand through."""

    offset_groups: int
    modulated: bool
    deform_kind: str
    offset_dilation: int | None
    kernel_size: int | None
    offset_branch: str


def operate(
    model: _Network,
    name: str,
    deform_layers: int,
    dilation: int,
    offset_groups: int = 1,
    modulated: bool = False,
    deform_kind: str = "deformable",
    offset_dilation: int | None = None,
    kernel_size: int | None = 3,
    offset_branch: str = "dense",
    last_stage: str | Sequence[str] = "layer4.*",
) -> _Network:
    """Dilate the last stage of a network and make its last convolutions deformable, in place.

    Args:
        model: a network or its features.
        name: of the network, for messages.
        deform_layers: how many of the last convolutions of `kernel_size` become deformable.
        dilation: of the last stage's convolutions above 1x1, deformable or not.
        offset_groups: groups of input channels that share one set of offsets.
        modulated: whether deformable layers also learn a weight for every sampling point.
        deform_kind: deformable; active, for active convolutions; added, for the control of equal parameters; or a
            function from outside, which is called as `deform` of :mod:`dcnlab.surgery` is.
        offset_dilation: of the convolutions that predict offsets; None: their layer's.
        kernel_size: of the layers that `deform_layers` counts; None: every size above 1x1.
        offset_branch: dense or depthwise, see `DeformConv2d`.
        last_stage: names or a pattern of its convolutions; torchvision's name in a residual network.

    Raises:
        ConfigError: the network has fewer layers, or channels that the groups do not divide.
    """
    if dilation > 1:
        dilate(model, last_stage, dilation)
    if deform_layers > 0:
        sizes: dict[str, Any] = {} if kernel_size == 3 else {"kernel_size": kernel_size}
        branch: dict[str, Any] = {} if offset_branch == "dense" else {"offset_branch": offset_branch}
        try:
            if outside.is_outside(deform_kind):
                surgery = outside.target("model.deform_kind", deform_kind)
                surgery(model, deform_layers, offset_groups, modulated, **sizes, **branch)
            elif deform_kind == "active":
                activate(model, deform_layers, offset_groups, **sizes)
            elif deform_kind == "added":
                add_maps(model, deform_layers, offset_groups, **sizes, **branch)
            else:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    deform(model, deform_layers, offset_groups, modulated, **sizes, **branch)
                for warning in caught:  # in a run's log, by the config's key
                    _log.warning("%s", str(warning.message).replace("offset_branch='dep", "model.offset_branch='dep"))
        except (ValueError, LayerKindError) as error:
            asked = f"model.deform_layers is {deform_layers}, model.offset_groups {offset_groups}"
            raise ConfigError(f"{asked}, which {name} does not allow; {error}") from error
        if offset_dilation is not None:
            dilate_offsets(model, offset_dilation)
    return model


def classifier(
    name: str,
    num_classes: int,
    weights: str = "none",
    deform_layers: int = 0,
    dilation: int = 1,
    spatial_transformer: bool = False,
    **layers: Unpack[SurgeryOptions],
) -> nn.Module:
    """Build a residual network that classifies.

    Args:
        name: resnet18, 34, 50, 101, 152 as torchvision has them, resnet10_slim or aligned_inception_resnet.
        num_classes: size of the last layer.
        weights: none; imagenet or imagenet_v2, torchvision's without their last layer; or the path of a state dict.
        deform_layers: see :func:`operate`.
        dilation: likewise.
        spatial_transformer: put one in front; its parts are then `transformer` and `backbone`.
        **layers: further options of :func:`operate`.

    Returns:
        A network from images (N, 3, H, W), normalised, to logits (N, num_classes).

    Raises:
        ConfigError: no such network or weights, or the weights do not fit; one line.
    """
    model = residual_network(name, num_classes)
    operate(model, name, deform_layers, dilation, **layers)
    load(model, name, weights)
    if spatial_transformer:
        model = transform_input(model)
    # The deformable operator's own order of axes, so that no layer copies its input.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves this one out
