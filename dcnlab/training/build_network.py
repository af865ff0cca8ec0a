"""Builds the network that a config names, inside the task that trains and scores it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from dcnlab.config.names import DATA_SETS, NETWORKS
from dcnlab.config.schema import Config
from dcnlab.data.resize import longer_limits
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line

if TYPE_CHECKING:
    from dcnlab.models.backbone import Backbone
    from dcnlab.models.detector import Detector


def checked_task_module(config: Config, classes: list[str]) -> pl.LightningModule:
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


def task_module(config: Config, classes: list[str]) -> pl.LightningModule:
    """The task, a LightningModule, around the network that `config.model` names.

    Args:
        config: of the run.
        classes: names in the order of their labels.

    Raises:
        ValueError: a layer refuses an argument of the config.
    """
    from dcnlab.data.digits.scenes import MEAN, STD
    from dcnlab.models.backbone import backbone
    from dcnlab.models.deeplab import DeepLab
    from dcnlab.models.resnet import classifier
    from dcnlab.tasks.classification import Classification
    from dcnlab.tasks.detection import Detection
    from dcnlab.tasks.segmentation import Segmentation

    model, data, backbone_config = config.model, config.data, config.model.backbone
    layers: dict[str, Any] = {
        "deform_layers": model.deform_layers,
        "dilation": model.dilation or (1 if config.task == "classification" else 2),
        "offset_groups": model.offset_groups,
        "modulated": model.modulated,
        "deform_kind": model.deform_kind,
        "offset_dilation": model.offset_dilation,
    }
    if config.task == "classification":
        layers["spatial_transformer"] = model.spatial_transformer
        network = classifier(backbone_config.name, len(classes), backbone_config.weights, **layers)
        background = -MEAN / STD if data.name == "digits" else 0.0
        return Classification(network, classes, config.optim, config.test, background)
    features = backbone(
        backbone_config.name,
        backbone_config.weights,
        output_stride=NETWORKS[model.name].output_stride,
        stride_on_1x1=backbone_config.stride_on_1x1,
        freeze_norm=backbone_config.freeze_norm,
        freeze_at=backbone_config.freeze_at,
        **layers,
    )
    mean, std = ((MEAN,) * 3, (STD,) * 3) if data.name == "digits" else (data.mean, data.std)
    if config.task == "segmentation":
        deeplab = DeepLab(features, len(classes), model.head_channels or 1024)
        return Segmentation(deeplab, classes, config.optim, config.test, mean, std)
    sides = config.test.shorter_sides
    protocol = data.protocol or DATA_SETS[data.name].protocol
    return Detection(
        _detector(config, features, len(classes)),
        classes,
        protocol,
        config.optim,
        config.test,
        longer_limits(sides, config.test.longer_sides, data.shorter_side, data.longer_side) if sides else None,
        mean,
        std,
        config.seed,
    )


def _detector(config: Config, features: Backbone, classes: int) -> Detector:
    from dcnlab.models.anchors import RPNSettings
    from dcnlab.models.class_aware_rpn import ClassAwareRPN
    from dcnlab.models.detector import DetectionSettings
    from dcnlab.models.faster_rcnn import FasterRCNN
    from dcnlab.models.fpn import FPNFasterRCNN
    from dcnlab.models.rfcn import RFCN
    from dcnlab.models.roi_sampling import RoISampling

    model, rpn, test = config.model, config.model.rpn, config.test
    common: dict[str, Any] = {
        "rpn": RPNSettings(
            scales=tuple(rpn.scales or NETWORKS[model.name].anchor_scales),
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
