"""Builds the network that a config names: ours, or one from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.config import names, outside
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.models.anchors import RPNSettings
from dcnlab.models.backbone import Backbone, backbone
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.deeplab import DeepLab
from dcnlab.models.detector import DetectionSettings, Detector
from dcnlab.models.faster_rcnn import FasterRCNN
from dcnlab.models.fpn import FPNFasterRCNN
from dcnlab.models.named_draws import NamedDraws
from dcnlab.models.resnet import classifier, operate
from dcnlab.models.rfcn import RFCN
from dcnlab.models.roi_sampling import RoISampling
from dcnlab.models.top_stage import dense_top
from dcnlab.models.trunk import library_classifier, trunk


def build_network(config: Config, classes: int) -> nn.Module:
    """Build the network that `config.model` names.

    A class from outside is called as `Class(classes, config)`. It may take its backbone from `build_backbone`.

    Args:
        config: of the run.
        classes: number of classes; of segmentation with the background, of detection without.

    Each random parameter is drawn from a generator of `config.seed` and its name, see :class:`.NamedDraws`. So a plain
    network and its deformable twin start equal in every parameter that both have, and in the same state of torch's
    global generator, which stays as it is.

    Returns:
        A classifier gives logits (N, classes) of images (N, 3, H, W), a segmentation network logits (N, classes, H, W).
        A detector is called as torchvision's are, see `Detector`.

    Raises:
        ConfigError: a name or a value of the config does not fit.
        ValueError: a layer refuses an argument of the config.
    """
    with torch.random.fork_rng(devices=[]), NamedDraws() as draws:
        torch.default_generator.manual_seed(config.seed)  # of what is not drawn by name
        network = _network(config, classes)
    draws.redraw(network, config.seed)
    return network


def _network(config: Config, classes: int) -> nn.Module:
    model = config.model
    if outside.is_outside(model.name):
        network = outside.target("model.name", model.name)(classes, config)
        if not isinstance(network, nn.Module):
            raise ConfigError(f"model.name is {str(model.name)!r}, which does not return a torch.nn.Module")
        return network
    if config.task == "classification":
        return _classifier(config, classes)
    features = build_backbone(config)
    if config.task == "segmentation":
        return DeepLab(features, classes, model.head_channels or 1024, model.loss_stride)
    return _detector(config, features, classes)


def build_backbone(config: Config) -> Backbone:
    """Build the backbone of a dense task that `config.model.backbone` names, with its deformable layers.

    A class from outside is called as `Class(config)`. It has `channels` and `strides` by stage and gives features by
    stage, as `Backbone` does, at least for res5. The layers that `model.deform_layers` counts are its last 3x3 ones.

    Raises:
        ConfigError: a name or a value of the config does not fit.
    """
    model, backbone_config = config.model, config.model.backbone
    if outside.is_outside(backbone_config.name):
        features: Any = outside.target("model.backbone.name", backbone_config.name)(config)
        for name in ("channels", "strides"):
            if "res5" not in getattr(features, name, {}):
                raise ConfigError(f"model.backbone.name is {str(backbone_config.name)!r}, whose {name} have no res5")
        return operate(features, str(backbone_config.name), **(_layers(config) | {"dilation": model.dilation or 1}))
    if model.top_stage == "none":
        return _named_backbone(config, **_layers(config))
    below = _named_backbone(config, last="res4", dilation=1)
    return dense_top(below, backbone_config.name, **_layers(config))  # type: ignore[return-value]  # gives maps by stage


def _named_backbone(config: Config, **layers: Any) -> Any:
    """The backbone of a name: ours, or a library's.

    Args:
        config: of the run.
        layers: of the surgery on its last layers; and the last stage that is kept.
    """
    model = config.model.backbone
    options = {"output_stride": names.network(config.model.name).output_stride, **layers}
    options |= {"freeze_norm": model.freeze_norm, "freeze_at": model.freeze_at}
    library = names.library_of(model.name)
    if library is not None:
        return trunk(model.name, library, model.weights, **options)
    return backbone(model.name, model.weights, stride_on_1x1=model.stride_on_1x1, **options)


class PooledClassifier(nn.Module):
    """A backbone from outside, the mean of its res5, and a linear layer.

    Args:
        backbone: gives features by stage.
        classes: number of classes.
    """

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        self.backbone, self.fc = backbone, nn.Linear(backbone.channels["res5"], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        return self.fc(self.backbone(images)["res5"].mean((2, 3)))


def _classifier(config: Config, classes: int) -> nn.Module:
    model = config.model
    if outside.is_outside(model.backbone.name):
        return PooledClassifier(build_backbone(config), classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    library = names.library_of(model.backbone.name)
    if library is not None:
        return library_classifier(
            model.backbone.name,
            library,
            classes,
            model.backbone.weights,
            spatial_transformer=model.spatial_transformer,
            **_layers(config),
        )
    return classifier(
        model.backbone.name,
        classes,
        model.backbone.weights,
        spatial_transformer=model.spatial_transformer,
        **_layers(config),
    )


def _layers(config: Config) -> dict[str, Any]:
    """The options of the surgery on the last layers."""
    model = config.model
    return {
        "deform_layers": model.deform_layers,
        "dilation": model.dilation or (1 if config.task == "classification" else 2),
        "offset_groups": model.offset_groups,
        "modulated": model.modulated,
        "deform_kind": model.deform_kind,
        "offset_dilation": model.offset_dilation,
        "kernel_size": model.deform_kernel_size,
        "offset_branch": model.offset_branch,
    }


def _detector(config: Config, features: Backbone, classes: int) -> Detector:
    model, rpn, test = config.model, config.model.rpn, config.test
    common: dict[str, Any] = {
        "rpn": RPNSettings(
            scales=tuple(rpn.scales or names.network(model.name).anchor_scales),
            ratios=tuple(rpn.ratios),
            hidden_channels=rpn.hidden_channels,
            sampled=rpn.sampled,
            candidates=rpn.candidates,
            proposals=rpn.proposals,
            allowed_border=rpn.border,
        ),
        "detections": DetectionSettings(test.score_floor, test.nms_iou, test.max_detections),
    }
    if model.head_channels is not None:
        common["channels"] = model.head_channels
    if model.name == "class_aware_rpn":
        return ClassAwareRPN(features, classes, **common)
    common |= {
        "deform_pooling": model.deform_pooling,
        "sampling": RoISampling(model.rois, least_negative_iou=model.least_negative_iou),
        "exact_rois": model.roi_far_edge == "exact",
    }
    if model.name != "faster_rcnn_fpn":
        common["plain_pooling"] = model.plain_pooling
    if model.name == "rfcn":
        return RFCN(features, classes, ohem=model.ohem, **common)
    common["fc_channels"] = model.fc_channels
    if model.name == "faster_rcnn":
        return FasterRCNN(features, classes, **common)
    return FPNFasterRCNN(features, classes, ohem=model.ohem, **common)
