"""The recipe of an experiment on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from dcnlab.ablations.rates import rates
from dcnlab.config import names
from dcnlab.config.load import load_experiment
from dcnlab.config.names import IMAGENET
from dcnlab.config.schema import Config
from dcnlab.data.resize import longer_limits
from dcnlab.models.weights_source import source

NOWHERE = "ROOT"
"""Stands for the folder of a data set that the user does not name."""


def load(experiment: str, overrides: Sequence[str]) -> Config:
    """An experiment, whose data set needs no folder here.

    Raises:
        ConfigError: anything in it that the user can mend.
    """
    return load_experiment(experiment, overrides, default_root=NOWHERE)


def lines(config: Config) -> list[tuple[str, str]]:
    """The recipe of an experiment, a name and a text each; one screen."""
    parts = [("experiment", f"{config.name}: {config.task}, {config.model.name}"), *_data(config)]
    parts += [*_network(config), *_schedule(config)]
    return [*parts, *(_detector(config) if config.task == "detection" else []), ("test", _test(config))]


def _data(config: Config) -> list[tuple[str, str]]:
    data = config.data
    size = f"shorter side {data.shorter_side or 'as it is'}"
    size += f", longer at most {data.longer_side}" if data.longer_side else ""
    size += f", crops of {data.crop_size[0]}x{data.crop_size[1]}" if data.crop_size else ""
    size += ", mirrored by half" if data.flip else ""
    if names.has_squares(config.task, data.name):
        size = f"squares of {data.image_size} pixels"
    pixels = [f"{name} {', '.join(f'{255 * value:.6g}' for value in getattr(data, name))}" for name in ("mean", "std")]
    return [
        ("data", f"{data.name}, train {_splits(data.train)}, test {_splits(data.test)}"),
        ("images", size if data.name == "digits" else f"{size}; {pixels[0]}, {pixels[1]} of 255"),
    ]


def _network(config: Config) -> list[tuple[str, str]]:
    model, backbone = config.model, config.model.backbone
    strides = "1x1" if backbone.stride_on_1x1 else "3x3"
    frozen = ["all norms"] if backbone.freeze_norm else []
    frozen += [f"the first {backbone.freeze_at} stages"] if backbone.freeze_at else []
    text = f"{model.deform_layers} layers, {model.offset_groups} offset groups, "
    text += f"dilation {model.dilation or 'of the task'}"
    if model.offset_dilation is not None:
        text += f", of the offsets' convolutions {model.offset_dilation}"
    return [
        ("backbone", f"{backbone.name}, strides on the {strides}; frozen: {', '.join(frozen) or 'nothing'}"),
        ("weights", _weights(backbone.name, backbone.weights)),
        ("deformable", text),
    ]


def _weights(name: str, weights: str) -> str:
    origin = source(name, weights)
    if origin is None:
        return "none"
    digest = origin["sha256"]
    known = f"sha256 {digest}" if digest else "not on this machine yet"
    return f"{origin['name']}, {origin['address']}, {known}" if weights in IMAGENET else f"{origin['name']}, {known}"


def _schedule(config: Config) -> list[tuple[str, str]]:
    optim, rated = config.optim, rates(config)
    scales = {
        "offsets": optim.offset_lr_scale,
        "pooling's offsets": optim.pooling_offset_lr_scale,
        "the 1x1 on res5": optim.reduce_lr_scale,
        "a head's biases": optim.bias_lr_scale,
    }
    rate = f"{rated.rate:g} on the mean of {rated.batch} images, {rated.per_image:.3g} an image; "
    rate += ", ".join(f"{name} x{scale:g}" for name, scale in scales.items())
    decay = f"{rated.decay:.3g} on the mean"
    if optim.name == "sgd":
        decay += f", {rated.decay * rated.batch:.3g} for a sum of {rated.batch} gradients"
    if rated.images is None:
        course = f"{config.trainer.max_epochs} epochs"
    else:
        course = f"{rated.images:,} images in {config.trainer.max_steps:,} steps; rates sum to {rated.total:.1f}"
    if optim.schedule == "cosine":
        course += "; cosine to zero"
    elif rated.images is not None:
        steps = config.trainer.max_steps or 0
        drops = [round((mark * steps if mark < 1 else mark) * rated.batch) for mark in optim.milestones]
        course += f"; a tenth from image {', '.join(f'{drop:,}' for drop in drops)} on"
    warm = "none"
    if optim.warmup:
        kind = f"constant at {optim.warmup_factor:g} of the rate" if optim.warmup_kind == "constant" else "linear"
        warm = f"{optim.warmup} steps, {optim.warmup * rated.batch:,} images, {kind}"
    optimizer = f"{optim.name}, momentum {optim.momentum:g}"
    optimizer += f", gradients clipped at {optim.clip_norm:g}" if optim.clip_norm else ""
    return [
        ("optimizer", optimizer),
        ("rate", rate),
        ("decay", f"{decay}; of weights alone"),
        ("schedule", course),
        ("warm-up", warm),
    ]


def _detector(config: Config) -> list[tuple[str, str]]:
    model, rpn = config.model, config.model.rpn
    scales = rpn.scales or list(names.network(model.name).anchor_scales)
    anchors = f"scales {_numbers(scales)}, ratios {_numbers(rpn.ratios)}, border {rpn.border}"
    samples = f"{rpn.sampled} anchors"
    rows = [("anchors", anchors)]
    if not names.network(model.name).deform_pooling:
        return [*rows, ("samples", samples)]
    kind = "the hardest of all" if model.ohem else "a quarter of them positive at most"
    samples += f"; {rpn.candidates} proposals before suppression, {rpn.proposals} after; {model.rois} RoIs, {kind}"
    samples += f", background from IoU {model.least_negative_iou:g} on"
    pooling = "deformable" if model.deform_pooling else f"plain, {model.plain_pooling}"
    return [*rows, ("samples", samples), ("pooling", f"{pooling}; far edge {model.roi_far_edge}")]


def _test(config: Config) -> str:
    test, data = config.test, config.data
    if config.task == "segmentation":
        return f"scales {_numbers(test.scales)}" + (", mirrored too" if test.flip else "")
    if config.task != "detection":
        return "one crop"
    sides = f"shorter side {data.shorter_side}" if data.shorter_side else "images at their own size"
    if test.shorter_sides:
        limits = longer_limits(test.shorter_sides, test.longer_sides, data.shorter_side, data.longer_side)
        pairs = zip(test.shorter_sides, limits, strict=True)
        sides = "sizes " + ", ".join(f"{shorter}/{longer or 'any'}" for shorter, longer in pairs)
    sides += ", mirrored too" if test.flip else ""
    sides += f", {test.box_rounds} rounds of box averaging" if test.box_rounds else ""
    kept = f"NMS {test.nms_iou:g}, scores above {test.score_floor:g}, at most {test.max_detections} detections"
    return f"{sides}; {kept}; protocol {data.protocol or 'of the data set'}"


def _splits(splits: str | list[str]) -> str:
    return splits if isinstance(splits, str) else " + ".join(splits)


def _numbers(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
