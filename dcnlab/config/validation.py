"""Checks of a whole experiment: its sections, and values of different sections that must fit each other."""

from __future__ import annotations

from typing import Any

from dcnlab.config import names, outside
from dcnlab.config.data_checks import check_data
from dcnlab.config.model_checks import check_model
from dcnlab.config.schema import Config
from dcnlab.config.training_checks import check_logger, check_optim, check_test, check_trainer
from dcnlab.config.value_checks import check_folder_name, choose, within
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import shown


def check(config: Config) -> None:
    """Check a whole experiment.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    check_data(config.data)
    check_model(config.model)
    check_optim(config.optim)
    check_test(config.test)
    check_trainer(config.trainer)
    check_logger(config.logger)
    check_folder_name("name", config.name)
    check_folder_name("id", config.id)
    if not config.out:
        raise ConfigError("out is ''; it must be the folder where run folders are made")
    within("seed", config.seed, 0, 2**32 - 1)
    choose("task", config.task, names.TASKS)
    _check_fit(config)


def _check_fit(config: Config) -> None:
    """Check that the sections fit each other."""
    for key, name, known in (
        ("data", config.data.name, names.data_sets(config.task)),
        ("model", config.model.name, names.networks(config.task)),
    ):
        if name not in known and not outside.is_outside(name):
            raise ConfigError(f"{key}.name is {name!r}; task {config.task} takes {', '.join(known)}")
    if config.data.layout is not None:
        if config.data.name != "own":
            raise ConfigError(f"data.layout is {config.data.layout!r}; data.name {config.data.name} has none, own does")
        choose("data.layout", config.data.layout, names.OWN_LAYOUTS[config.task])
    if config.task == "detection" and config.trainer.precision in ("16-true", "bf16-true"):
        raise ConfigError(
            f"trainer.precision is {config.trainer.precision!r}, which rounds the boxes too; "
            "detection takes 16-mixed or bf16-mixed"
        )
    for key in ("deform_pooling", "ohem", "spatial_transformer"):
        able = names.networks_with(key)
        if getattr(config.model, key) and not getattr(names.network(config.model.name), key):
            raise ConfigError(f"model.{key} is true; {config.model.name} has none, {', '.join(able)} do")
    if config.model.plain_pooling == "authors" and config.trainer.deterministic:
        raise ConfigError(
            "model.plain_pooling is 'authors', whose gradient has no fixed order on a GPU; trainer.deterministic=true "
            "takes mean"
        )
    able = ("faster_rcnn", "rfcn")
    if config.model.plain_pooling != "mean" and config.model.name not in able:
        raise ConfigError(f"model.plain_pooling is 'authors'; {config.model.name} has none, {', '.join(able)} do")
    for key, neutral in (("least_negative_iou", 0), ("roi_far_edge", "added")):
        value, able = getattr(config.model, key), names.networks_with("deform_pooling")
        if value != neutral and config.model.name not in able:
            raise ConfigError(f"model.{key} is {value}; {config.model.name} has none, {', '.join(able)} do")
    if config.model.loss_stride != 1 and config.model.name != "deeplab":
        raise ConfigError(
            f"model.loss_stride is {config.model.loss_stride}; {config.model.name} has none, deeplab does"
        )
    for key, neutral in (("rotation", 0), ("magnification", 1)):
        value = getattr(config.test, key)
        if value != neutral and config.task != "classification":
            raise ConfigError(f"test.{key} is {value:g}; {config.task} has none, classification does")
    _check_frozen_backbone(config)
    _check_expected(config)
    for key in ("early_stop", "keep_best", "monitor"):
        if getattr(config.trainer, key) and config.data.val is None and config.data.name not in ("imagefolder", "own"):
            value = getattr(config.trainer, key)
            raise ConfigError(f"trainer.{key} is {value!r}, and data.val is null: nothing is validated during training")
    if config.trainer.max_steps is None and config.trainer.max_epochs is None:
        raise ConfigError("trainer.max_steps and trainer.max_epochs are both null; state one of them")


def _check_frozen_backbone(config: Config) -> None:
    """Check the keys of a new stage on a frozen backbone, and of its cached features."""
    model, data = config.model, config.data
    whole = model.backbone.freeze_at == "all"
    if config.task == "classification":
        for key, is_set in (("model.top_stage", model.top_stage != "none"), ("model.backbone.freeze_at", whole)):
            if is_set:
                value = "dense" if key == "model.top_stage" else "all"
                raise ConfigError(f"{key} is {value}; classification has none, segmentation and detection do")
        if config.optim.head_lr_scale != 1:
            raise ConfigError(
                f"optim.head_lr_scale is {config.optim.head_lr_scale:g}; classification takes 1, segmentation and "
                "detection any"
            )
    if model.top_stage != "none" and model.name == "faster_rcnn_fpn":
        raise ConfigError("model.top_stage is dense; faster_rcnn_fpn takes none, the other networks dense")
    if (model.top_stage != "none" or whole) and outside.is_outside(model.backbone.name):
        raise ConfigError("model.top_stage and model.backbone.freeze_at=all are for backbones of dcnlab's or a library")
    if whole and model.top_stage == "none" and model.deform_layers:
        raise ConfigError(
            f"model.backbone.freeze_at is all, and model.deform_layers {model.deform_layers}: frozen layers learn no "
            "offsets; model.top_stage=dense has layers that do"
        )
    if not data.cache_features:
        return
    if not whole or model.top_stage == "none":
        raise ConfigError(
            "data.cache_features is true; it needs model.backbone.freeze_at=all and model.top_stage=dense, whose "
            "backbone gives the same map of an image in every epoch"
        )
    changing: dict[str, Any] = {}
    if data.name == "digits":
        changing["name"] = data.name
    if tuple(data.random_scale) != (1.0, 1.0):
        changing["random_scale"] = list(data.random_scale)
    if any(data.color_jitter):
        changing["color_jitter"] = list(data.color_jitter)
    if data.crop_size is not None:
        changing["crop_size"] = list(data.crop_size)
    if changing:
        key, value = next(iter(changing.items()))
        raise ConfigError(
            f"data.cache_features is true, and data.{key} is {value}, which makes other images in every epoch"
        )


def _check_expected(config: Config) -> None:
    known = names.metrics(config.task, config.data.name, config.data.protocol)
    for metric, stated in config.test.expected.items():
        choose("test.expected", metric, known)
        key = f"test.expected.{metric}"
        numbers = stated if isinstance(stated, list) else []
        if len(numbers) != 2 or not all(type(number) in (int, float) for number in numbers):
            raise ConfigError(f"{key} is {shown(stated)}; it must be a value and a tolerance, such as [73.2, 6]")
        value, tolerance = numbers
        within(f"the value of {key}", value, 0, 100)
        if not 0 < tolerance <= 100:
            raise ConfigError(f"the tolerance of {key} is {tolerance}; it must be above 0 and at most 100")
