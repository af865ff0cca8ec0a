"""Checks of the section `model` of an experiment."""

from __future__ import annotations

import math

from dcnlab.config import names, outside
from dcnlab.config.schema import BackboneConfig, ModelConfig, RPNConfig
from dcnlab.config.value_checks import choose, choose_or_outside, within
from dcnlab.io.errors import ConfigError

TOP_STAGE_LAYERS = 3
"""3x3 convolutions of `model.top_stage` dense."""


def check_model(model: ModelConfig) -> None:
    """Check the section `model`, with its backbone and its region proposal network.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    _check_backbone(model.backbone)
    _check_rpn(model.rpn)
    choose_or_outside("model.name", model.name, names.NETWORKS)
    for key in ("head_channels", "fc_channels", "rois", "loss_stride"):
        within(f"model.{key}", getattr(model, key), 1)
    choose("model.top_stage", model.top_stage, ("none", "dense"))
    within("model.deform_layers", model.deform_layers, 0)
    _check_layers(model)
    choose_or_outside("model.deform_kind", model.deform_kind, ("deformable", "active", "added"))
    if model.modulated and model.deform_kind in ("active", "added"):
        kind = model.deform_kind
        raise ConfigError(f"model.modulated is true; model.deform_kind {kind} has no weights of sampling points")
    within("model.deform_kernel_size", model.deform_kernel_size, 2)
    choose("model.offset_branch", model.offset_branch, ("dense", "depthwise"))
    if model.offset_branch != "dense" and model.deform_kind == "active":
        raise ConfigError(f"model.offset_branch is {model.offset_branch}; model.deform_kind active predicts no offsets")
    within("model.dilation", model.dilation, 1)
    within("model.offset_groups", model.offset_groups, 1)
    within("model.offset_dilation", model.offset_dilation, 1)
    within("model.least_negative_iou", model.least_negative_iou, 0, 0.5)
    choose("model.plain_pooling", model.plain_pooling, ("mean", "authors"))
    choose("model.roi_far_edge", model.roi_far_edge, ("added", "exact"))


def _check_layers(model: ModelConfig) -> None:
    """Check that a backbone of ours has as many layers as are to be deformable."""
    where = "model.top_stage dense" if model.top_stage == "dense" else model.backbone.name
    known = names.BACKBONES.get(str(model.backbone.name))
    count = TOP_STAGE_LAYERS if model.top_stage == "dense" else known.layers if known is not None else None
    if count is not None and model.deform_kernel_size == 3 and model.deform_layers > count:
        raise ConfigError(
            f"model.deform_layers is {model.deform_layers}; {where} has {count} 3x3 convolutions; nearest: {count}"
        )


def _check_backbone(backbone: BackboneConfig) -> None:
    if outside.is_outside(backbone.name):
        choose_or_outside("model.backbone.name", backbone.name, ())
    elif names.library_of(backbone.name) and backbone.stride_on_1x1:
        raise ConfigError(f"model.backbone.stride_on_1x1 is true; {backbone.name} takes false, ResNets of ours true")
    check_imagenet(backbone.name, backbone.weights)
    if isinstance(backbone.freeze_at, str):
        choose("model.backbone.freeze_at", backbone.freeze_at, (*map(str, range(6)), "all"))
    else:
        within("model.backbone.freeze_at", backbone.freeze_at, 0, 5)


def check_imagenet(name: str, weights: str) -> None:
    """Check that torchvision has these weights for a network, where they are torchvision's.

    Args:
        name: of the network.
        weights: `model.backbone.weights`.

    Raises:
        ConfigError: it does not; names the networks that have them.
    """
    if weights in names.IMAGENET and weights not in names.backbone(name).imagenet:
        having = [other for other, backbone in names.BACKBONES.items() if weights in backbone.imagenet]
        raise ConfigError(
            f"model.backbone.weights is {weights!r}, which {name} does not have, but {', '.join(having)} do; "
            "else none or a path"
        )


def _check_rpn(rpn: RPNConfig) -> None:
    for key in ("scales", "ratios"):
        numbers = getattr(rpn, key)
        if numbers is not None and not (numbers and all(0 < number < math.inf for number in numbers)):
            raise ConfigError(f"model.rpn.{key} is {numbers}; it must hold numbers above 0")
    for key in ("hidden_channels", "sampled", "candidates", "proposals"):
        within(f"model.rpn.{key}", getattr(rpn, key), 1)
    within("model.rpn.border", rpn.border, 0)
