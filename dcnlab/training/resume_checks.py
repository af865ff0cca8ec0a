"""What may change when a run is resumed: its config, its length and its training images."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcnlab.config import identity
from dcnlab.config.keys import flatten
from dcnlab.config.schema import Config
from dcnlab.data.listing import listing
from dcnlab.io.errors import ConfigError
from dcnlab.training.callbacks import best
from dcnlab.training.run_folder import RunFolder

_MAY_DIFFER = (
    *(
        f"trainer.{key}"
        for key in ("max_", "val_every", "accelerator", "devices", "num_nodes", "deterministic", "offset_limit")
    ),
    *("trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.early_stop", "trainer.compile"),
    *("data.root", "data.workers", "data.val", "data.test", "test.", "model.backbone.weights"),
)
"""Prefixes of keys that may differ between a checkpoint and its run: how long, where, and how it is scored."""
MAY_CHANGE = (
    *(f"trainer.{key}" for key in ("max_steps", "max_epochs", "val_every", "accelerator", "devices", "num_nodes")),
    *(f"trainer.{key}" for key in ("deterministic", "offset_limit", "threads", "progress", "checkpoint_every")),
    *("trainer.strategy", "trainer.profiler", "trainer.limit_val_batches", "trainer.limit_test_batches"),
    *("trainer.early_stop", "trainer.compile"),
    *("trainer.rendezvous_minutes", "data.root", "data.workers", "data.val", "data.test", "test.", "logger."),
)
"""Prefixes of keys that `dcnlab resume` takes."""
LENGTH = ("trainer.max_steps", "trainer.max_epochs")
"""Keys of a training's length."""


def check_changes(before: Config, after: Config, folder: RunFolder) -> dict[str, Any]:
    """Check that a run can be resumed under a changed config.

    Args:
        before: the run's config.
        after: the same with the key=value of the command line.
        folder: of the run.

    Returns:
        The keys that change, with their new values.

    Raises:
        ConfigError: names a key whose change would make it another run.
    """
    old, new = (dict(flatten(asdict(config))) for config in (before, after))
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    # A sweep's record of its parameters is not a key of the command line.
    words = " ".join(shlex.quote(f"{key}={value}") for key, value in changed.items() if not key.startswith("sweep."))
    for key, value in changed.items():
        if not key.startswith(MAY_CHANGE):
            raise ConfigError(
                f"{key} is {old.get(key)!r} in {folder} and cannot become {value!r} there; put it back, or begin a new "
                f"run: dcnlab fit {shlex.quote(str(folder.config))} id=null {words}"
            )
    return changed


def recorded_length(content: dict[str, Any]) -> dict[str, Any]:
    """The values of `LENGTH` of the training that wrote a checkpoint."""
    record = content.get("dcnlab")
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        return {}
    values = {key: settings[key] for key in LENGTH if key in settings}
    return {key: value for key, value in values.items() if value is None or type(value) is int}


def leaves_training(content: dict[str, Any], config: Config, folder: RunFolder) -> bool:
    """Whether a training under `config` has steps left after a checkpoint.

    Raises:
        ConfigError: it would have ended before the checkpoint; names the key.
    """
    record = content["dcnlab"]
    begun = record["pass"] + bool(record["batches"])
    run = config.trainer
    for key, limit, trained, what in (
        ("max_steps", run.max_steps, content["global_step"], "steps"),
        ("max_epochs", run.max_epochs, begun, "epochs"),
    ):
        if limit is not None and limit < trained:
            raise ConfigError(
                f"trainer.{key} is {limit}, and {folder} has trained {trained} {what}; state at least {trained}"
            )
    if best.has_ended(content, config):
        return False
    return not (run.max_steps == content["global_step"] or run.max_epochs == record["pass"])


def check_fits(content: dict[str, Any], config: Config, world_size: int, path: Path) -> None:
    """Check that a training under `config` can resume from a checkpoint.

    Args:
        content: of the checkpoint, accepted by `check_trainable`.
        config: of the run.
        world_size: number of ranks.
        path: of the checkpoint.

    Raises:
        ConfigError: another training wrote it; names the first key that differs.
    """
    record = content["dcnlab"]
    theirs, ours = identity.changed(record["settings"]), identity.changed(identity.settings(config))
    for key in {**theirs, **ours}:
        if not key.startswith(_MAY_DIFFER) and theirs.get(key) != ours.get(key):
            defaults = identity.settings(Config())
            before, now = (settings.get(key, defaults.get(key)) for settings in (theirs, ours))
            raise ConfigError(
                f"{path} was trained with {key} {before!r}, which is {now!r} now; put it back, or begin a new run"
            )
    if record["batches"] and record["processes"] != world_size:
        raise ConfigError(
            f"{path} is from within an epoch of {record['processes']} ranks, and there are {world_size} now; "
            f"resume it with {record['processes']}"
        )


def check_data(content: dict[str, Any], train: Any, path: Path) -> str | None:
    """Compare the training images with those that a checkpoint was trained on.

    Args:
        content: of the checkpoint, accepted by `check_trainable`.
        train: the training split.
        path: of the checkpoint.

    Returns:
        A warning where they differ; None where they are the same, or the checkpoint is too old to tell.

    Raises:
        ConfigError: their number differs, within an epoch. Their order depends on the number, so the rest of the epoch
            would repeat some images and lack others.
    """
    old, new = content["dcnlab"].get("data"), listing(train)
    if not isinstance(old, dict) or type(old.get("images")) is not int or old == new:
        return None
    if old["images"] == new["images"]:
        return f"data.train lists other images than {path} was trained on, as many; training continues with them"
    counts = f"data.train has {new['images']} images, and {path} was trained on {old['images']}"
    if content["dcnlab"]["batches"]:
        raise ConfigError(
            f"{counts}, into an epoch, whose order depends on that number; put them back, or begin a new "
            "run under another id"
        )
    return f"{counts}; training continues with them"
