"""Checks of an experiment: every value in its range, and values that must fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dcnlab.config import names, outside
from dcnlab.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    LoggerConfig,
    ModelConfig,
    OptimConfig,
    RPNConfig,
    TestConfig,
    TrainerConfig,
)
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, shown

PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")
"""As Lightning writes them."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
PROFILERS = ("simple", "advanced", "pytorch")
LOGGERS = ("csv", "wandb", "tensorboard")

_INFINITY = float("inf")


def choose(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        ConfigError: it is not; names the nearest choice and lists them all.
    """
    choices = list(choices)
    if value not in choices:
        near = nearest(value, choices)
        hint = f"nearest: {near}; " if near else ""
        raise ConfigError(f"{name} is {value!r}; {hint}choose from: {', '.join(choices)}")


def within(name: str, value: float | None, low: float, high: float = _INFINITY) -> None:
    """Check that `value` is None or lies between `low` and `high`, both included.

    Raises:
        ConfigError: it does not.
    """
    if value is not None and not (low <= value <= high and value < _INFINITY):
        wanted = f"at least {low:g}" if high == _INFINITY else f"between {low:g} and {high:g}"
        text = f"{value:g}" if isinstance(value, float) else str(value)  # an int may be larger than any float
        raise ConfigError(f"{name} is {text}; it must be {wanted}")


def choose_or_outside(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`, or names a class from outside.

    Raises:
        ConfigError: it is neither; names the nearest choice and lists them all.
    """
    if not outside.is_outside(value):
        choose(name, value, choices)
    elif isinstance(value, str):
        outside.check_form(name, value)


def check_folder_name(name: str, value: str | None) -> None:
    """Check that `value` is None or can be the name of a folder inside the runs.

    Raises:
        ConfigError: it cannot.
    """
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", value):
        raise ConfigError(f"{name} is {value!r}; it names a folder: letters, digits and _ . - + = only")


def check(config: Config) -> None:
    """Check a whole experiment.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    _check_data(config.data)
    _check_backbone(config.model.backbone)
    _check_rpn(config.model.rpn)
    _check_model(config.model)
    _check_optim(config.optim)
    _check_test(config.test)
    _check_trainer(config.trainer)
    _check_logger(config.logger)
    check_folder_name("name", config.name)
    check_folder_name("id", config.id)
    if not config.out:
        raise ConfigError("out is ''; it must be the folder where run folders are made")
    within("seed", config.seed, 0, 2**32 - 1)
    choose("task", config.task, names.TASKS)
    _check_fit(config)


def _check_data(data: DataConfig) -> None:
    choose_or_outside("data.name", data.name, names.DATA_SETS)
    if names.data_set(data.name).layout is not None and data.root is None:
        raise ConfigError(
            f"data.root is null; data.name {data.name} needs the folder of the data set: data.root=FOLDER"
        )
    within("data.batch_size", data.batch_size, 1)
    within("data.workers", data.workers, 0)
    within("data.image_size", data.image_size, 8)
    within("data.ignore", data.ignore, 0, 255)
    choose("data.exif", data.exif, ("auto", "apply", "ignore"))
    within("data.shorter_side", data.shorter_side, 16)
    within("data.longer_side", data.longer_side, 16)
    within("data.digits", data.digits, 1, 255)
    if data.protocol is not None:
        choose("data.protocol", data.protocol, names.PROTOCOLS)
    if data.crop_size is not None and min(data.crop_size) < 16:
        raise ConfigError(f"data.crop_size is {list(data.crop_size)}; both must be at least 16")
    if not all(abs(value) < _INFINITY for value in data.mean):
        raise ConfigError(f"data.mean is {list(data.mean)}; it must be three numbers")
    if not all(0 < value < _INFINITY for value in data.std):
        raise ConfigError(f"data.std is {list(data.std)}; all three must be above 0")
    within("data.train_length", data.train_length, 1)
    within("data.test_length", data.test_length, 1)
    within("data.rotation", data.rotation, 0, 180)
    within("data.shear", data.shear, 0, 1)
    within("data.warp", data.warp, 0, 0.15)
    within("data.clutter", data.clutter, 0)
    for key, pair in (("scale", data.scale), ("random_scale", data.random_scale)):
        if not 0 < pair[0] <= pair[1] < _INFINITY:
            raise ConfigError(f"data.{key} is {list(pair)}; it must be two numbers above 0, the smaller one first")


def _check_backbone(backbone: BackboneConfig) -> None:
    choose_or_outside("model.backbone.name", backbone.name, names.BACKBONES)
    check_imagenet(backbone.name, backbone.weights)
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
        if numbers is not None and (not numbers or min(numbers) <= 0):
            raise ConfigError(f"model.rpn.{key} is {numbers}; it must hold numbers above 0")
    for key in ("hidden_channels", "sampled", "candidates", "proposals"):
        within(f"model.rpn.{key}", getattr(rpn, key), 1)
    within("model.rpn.border", rpn.border, 0)


def _check_model(model: ModelConfig) -> None:
    choose_or_outside("model.name", model.name, names.NETWORKS)
    for key in ("head_channels", "fc_channels", "rois"):
        within(f"model.{key}", getattr(model, key), 1)
    within("model.deform_layers", model.deform_layers, 0)
    choose_or_outside("model.deform_kind", model.deform_kind, ("deformable", "active"))
    if model.modulated and model.deform_kind == "active":
        raise ConfigError("model.modulated is true; model.deform_kind active has no weights of sampling points")
    within("model.dilation", model.dilation, 1)
    within("model.offset_groups", model.offset_groups, 1)
    within("model.offset_dilation", model.offset_dilation, 1)
    within("model.least_negative_iou", model.least_negative_iou, 0, 0.5)
    choose("model.plain_pooling", model.plain_pooling, ("mean", "authors"))
    choose("model.roi_far_edge", model.roi_far_edge, ("added", "exact"))


def _check_optim(optim: OptimConfig) -> None:
    choose("optim.name", optim.name, ("sgd", "adamw"))
    choose("optim.schedule", optim.schedule, ("step", "cosine"))
    within("optim.lr", optim.lr, 0)
    within("optim.momentum", optim.momentum, 0, 1)
    if optim.momentum == 1:
        raise ConfigError("optim.momentum is 1; it must be below 1")
    within("optim.weight_decay", optim.weight_decay, 0)
    for part in ("offset", "pooling_offset", "active_offset", "localisation", "reduce", "bias"):
        within(f"optim.{part}_lr_scale", getattr(optim, f"{part}_lr_scale"), 0)
    within("optim.warmup", optim.warmup, 0)
    choose("optim.warmup_kind", optim.warmup_kind, ("linear", "constant"))
    within("optim.warmup_factor", optim.warmup_factor, 0, 1)
    within("optim.label_smoothing", optim.label_smoothing, 0, 1)
    within("optim.ema", optim.ema, 0, 1)
    within("optim.clip_norm", optim.clip_norm, 0)
    if any(step <= 0 for step in optim.milestones) or sorted(set(optim.milestones)) != optim.milestones:
        raise ConfigError(f"optim.milestones is {optim.milestones}; the numbers must be above 0 and grow")


def _check_test(test: TestConfig) -> None:
    within("test.pictures", test.pictures, 0)
    within("test.box_rounds", test.box_rounds, 0)
    within("test.score_floor", test.score_floor, 0, 1)
    within("test.nms_iou", test.nms_iou, 0, 1)
    within("test.max_detections", test.max_detections, 1)
    within("test.rotation", test.rotation, -360, 360)
    within("test.magnification", test.magnification, 0.1, 10)
    if test.shorter_sides is not None and (not test.shorter_sides or min(test.shorter_sides) < 16):
        raise ConfigError(f"test.shorter_sides is {test.shorter_sides}; it must hold numbers of at least 16")
    for key in ("shorter_sides", "longer_sides"):
        sides = getattr(test, key) or []
        twice = next((side for side in sides if sides.count(side) > 1), None)
        if twice is not None:
            raise ConfigError(f"test.{key} holds {twice} twice, which would make the same image twice")
    if test.longer_sides is not None:
        _check_longer_sides(test.shorter_sides or [], test.longer_sides)
    if not test.scales or not all(0 < scale < _INFINITY for scale in test.scales):
        raise ConfigError(f"test.scales is {test.scales}; it must hold numbers above 0")


def _check_longer_sides(shorter: list[int], longer: list[int]) -> None:
    if len(longer) != len(shorter):
        raise ConfigError(
            f"test.longer_sides is {longer}; it must hold {len(shorter)} numbers, one for each of test.shorter_sides"
        )
    for short_side, long_side in zip(shorter, longer, strict=True):
        if long_side < short_side:
            raise ConfigError(
                f"test.longer_sides holds {long_side} for the shorter side {short_side}; it must be at least that"
            )
    if [shorter.index(side) for side in sorted(shorter)] != [longer.index(side) for side in sorted(longer)]:
        raise ConfigError(
            f"test.longer_sides is {longer}; they must grow as test.shorter_sides {shorter} do, or two sides make the "
            "same image"
        )


def _check_trainer(trainer: TrainerConfig) -> None:
    choose("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu"))
    choose("trainer.precision", trainer.precision, PRECISIONS)
    if isinstance(trainer.devices, int):
        within("trainer.devices", trainer.devices, 1)
    else:
        choose("trainer.devices", trainer.devices, ("auto",))
    within("trainer.num_nodes", trainer.num_nodes, 1)
    within("trainer.rendezvous_minutes", trainer.rendezvous_minutes, 0)
    within("trainer.max_steps", trainer.max_steps, 1)
    within("trainer.max_epochs", trainer.max_epochs, 1)
    within("trainer.val_every", trainer.val_every, 1)
    within("trainer.checkpoint_every", trainer.checkpoint_every, 0)
    within("trainer.offset_limit", trainer.offset_limit, 0)
    within("trainer.effective_batch", trainer.effective_batch, 1)
    within("trainer.threads", trainer.threads, 1)
    choose("trainer.strategy", trainer.strategy, STRATEGIES)
    if trainer.profiler is not None:
        choose("trainer.profiler", trainer.profiler, PROFILERS)
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = getattr(trainer, key)
        if limit is not None and not (0 < limit < 1 or (limit < _INFINITY and limit == int(limit) and limit > 0)):
            raise ConfigError(f"trainer.{key} is {limit:g}; it must be a fraction below 1, or batches: 1, 2, ...")
    within("trainer.early_stop", trainer.early_stop, 1)


def _check_logger(logger: LoggerConfig) -> None:
    within("logger.every", logger.every, 1)
    for name in logger.names or ():
        choose("logger.names", name, LOGGERS)


def _check_fit(config: Config) -> None:
    """Check that the sections fit each other."""
    for key, name, known in (
        ("data", config.data.name, names.data_sets(config.task)),
        ("model", config.model.name, names.networks(config.task)),
    ):
        if name not in known and not outside.is_outside(name):
            raise ConfigError(f"{key}.name is {name!r}; task {config.task} takes {', '.join(known)}")
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
    for key, neutral in (("rotation", 0), ("magnification", 1)):
        value = getattr(config.test, key)
        if value != neutral and config.task != "classification":
            raise ConfigError(f"test.{key} is {value:g}; {config.task} has none, classification does")
    _check_expected(config)
    for key in ("early_stop", "keep_best", "monitor"):
        if getattr(config.trainer, key) and config.data.val is None and config.data.name != "imagefolder":
            value = getattr(config.trainer, key)
            raise ConfigError(f"trainer.{key} is {value!r}, and data.val is null: nothing is validated during training")
    if config.trainer.max_steps is None and config.trainer.max_epochs is None:
        raise ConfigError("trainer.max_steps and trainer.max_epochs are both null; state one of them")


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


def check_paths(config: Config) -> None:
    """Check that the folder and the file that an experiment names exist.

    Raises:
        ConfigError: one does not; names the nearest.
    """
    root, weights = config.data.root, config.model.backbone.weights
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"data.root is {root!r}, and there is no such folder" + _nearest_path(Path(root)))
    if weights not in ("none", *names.IMAGENET) and not Path(weights).is_file():
        raise ConfigError(
            f"model.backbone.weights is {weights!r}; it must be none, {', '.join(names.IMAGENET)} or a file that is "
            "there" + _nearest_path(Path(weights))
        )


def _nearest_path(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"; nearest: {path.parent / near}" if near else ""
