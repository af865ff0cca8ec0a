"""Checks of the sections `optim`, `test`, `trainer` and `logger` of an experiment."""

from __future__ import annotations

import math

from dcnlab.config import other_words
from dcnlab.config.schema import LoggerConfig, OptimConfig, TestConfig, TrainerConfig
from dcnlab.config.value_checks import choose, within
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import shown

PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")
"""As Lightning writes them."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Of torch.compile."""
PROFILERS = ("simple", "advanced", "pytorch")
OFFSETS = ("predicted", "zero", "mean", "other_image")
"""Values of `test.offsets`."""
LOGGERS = ("csv", "wandb", "tensorboard")


def check_optim(optim: OptimConfig) -> None:
    """Check the section `optim`.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    choose("optim.name", optim.name, ("sgd", "adamw"))
    choose("optim.schedule", optim.schedule, ("step", "cosine", "poly", "one_cycle"), other_words.SCHEDULES)
    within("optim.poly_power", optim.poly_power, 0)
    within("optim.lr", optim.lr, 0)
    within("optim.momentum", optim.momentum, 0, 1)
    if optim.momentum == 1:
        raise ConfigError("optim.momentum is 1; it must be below 1")
    within("optim.weight_decay", optim.weight_decay, 0)
    for part in ("offset", "pooling_offset", "active_offset", "localisation", "reduce", "head", "bias"):
        within(f"optim.{part}_lr_scale", getattr(optim, f"{part}_lr_scale"), 0)
    within("optim.warmup", optim.warmup, 0)
    choose("optim.warmup_kind", optim.warmup_kind, ("linear", "constant"))
    within("optim.warmup_factor", optim.warmup_factor, 0, 1)
    within("optim.label_smoothing", optim.label_smoothing, 0, 1)
    within("optim.ema", optim.ema, 0, 1)
    within("optim.clip_norm", optim.clip_norm, 0)
    if not all(0 < step < math.inf for step in optim.milestones) or sorted(set(optim.milestones)) != optim.milestones:
        raise ConfigError(f"optim.milestones is {optim.milestones}; the numbers must be above 0 and grow")


def check_test(test: TestConfig) -> None:
    """Check the section `test`.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    choose("test.offsets", test.offsets, OFFSETS)
    _check_plain_test(test)
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
    if not test.scales or not all(0 < scale < math.inf for scale in test.scales):
        raise ConfigError(f"test.scales is {test.scales}; it must hold numbers above 0")


def _check_plain_test(test: TestConfig) -> None:
    """Check that the test takes each image once, as it is, where offsets come from the split's images."""
    if test.offsets not in ("mean", "other_image"):
        return
    for key in ("scales", "flip", "shorter_sides", "box_rounds", "rotation", "magnification"):
        plain, value = getattr(TestConfig(), key), getattr(test, key)
        if value != plain:
            raise ConfigError(
                f"test.{key} is {shown(value)}; test.offsets {test.offsets} takes {shown(plain)}, each image as it is"
            )


def _check_longer_sides(shorter: list[int], longer: list[int]) -> None:
    if len(longer) != len(shorter):
        raise ConfigError(
            f"test.longer_sides is {longer}; it must hold {len(shorter)} numbers, one for each of test.shorter_sides"
        )
    for least, most in zip(shorter, longer, strict=True):
        if most < least:
            raise ConfigError(f"test.longer_sides holds {most} for the shorter side {least}; it must be at least that")
    if [shorter.index(side) for side in sorted(shorter)] != [longer.index(side) for side in sorted(longer)]:
        raise ConfigError(
            f"test.longer_sides is {longer}; they must grow as test.shorter_sides {shorter} do, or two sides make the "
            "same image"
        )


def check_trainer(trainer: TrainerConfig) -> None:
    """Check the section `trainer`.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    choose("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu"), other_words.ACCELERATORS)
    choose("trainer.precision", trainer.precision, PRECISIONS, other_words.PRECISIONS)
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
    if trainer.strategy.startswith("fsdp"):
        raise ConfigError(
            f"trainer.strategy is {trainer.strategy!r}, which dcnlab does not have; take ddp: the networks have up to "
            "82 million parameters, which fit into every GPU with their gradients and momentum"
        )
    choose("trainer.strategy", trainer.strategy, STRATEGIES)
    if isinstance(trainer.compile, str):
        choose("trainer.compile", trainer.compile, ("true", "false", *COMPILE_MODES))
    if trainer.profiler is not None:
        choose("trainer.profiler", trainer.profiler, PROFILERS)
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = getattr(trainer, key)
        if limit is not None and not (0 < limit < 1 or (limit < math.inf and limit == int(limit) and limit > 0)):
            raise ConfigError(f"trainer.{key} is {limit:g}; it must be a fraction below 1, or batches: 1, 2, ...")
    within("trainer.early_stop", trainer.early_stop, 1)


def check_logger(logger: LoggerConfig) -> None:
    """Check the section `logger`.

    Raises:
        ConfigError: a value is out of its range, or two values do not fit each other; names the key.
    """
    within("logger.every", logger.every, 1)
    for name in logger.names or ():
        choose("logger.names", name, LOGGERS)
