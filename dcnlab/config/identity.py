"""Identity of a run: the settings that decide what it computes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from dcnlab.config.keys import flatten
from dcnlab.config.schema import Config

NOT_COMPUTED = (
    *("name", "out", "id", "logger", "sweep"),
    *(f"trainer.{key}" for key in ("threads", "progress", "checkpoint_every", "rendezvous_minutes")),
    "test.expected",
    *("trainer.strategy", "trainer.profiler"),
)
"""Keys and sections that decide a run's name, its folder and what it shows, but no value that it computes."""

EQUAL_METRICS = (
    *("data.root", "data.workers", "test.pictures"),
    *("trainer.accelerator", "trainer.deterministic", "trainer.compile"),
)
"""Computed keys that leave the metrics of a run as they are, except for rounding."""

REPEATS = ("seed", "data.fold")
"""Parameters in which the runs of one row of a table differ."""


@functools.cache
def is_computed(key: str) -> bool:
    """Whether a dotted key has a part in what a run computes."""
    return not any(f"{key}.".startswith(f"{name}.") for name in NOT_COMPUTED)


def settings(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes, by dotted key."""
    return {
        key: str(value) if isinstance(value, str) else value  # plain, also where it carries a class
        for key, value in flatten(dataclasses.asdict(config))
        if is_computed(key)
    }


def decides_metrics(key: str) -> bool:
    """Whether a dotted key has a part in the metrics of a run."""
    return is_computed(key) and key not in EQUAL_METRICS


def changed(run: dict[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that differ from the defaults.

    They are a run's identity: a new key at its default leaves the identity of old runs as it was.

    Args:
        run: as from `settings`, by this version or an older one.
    """
    defaults = _defaults()
    return {key: value for key, value in run.items() if key not in defaults or value != defaults[key]}


@functools.cache
def _defaults() -> dict[str, Any]:
    return settings(Config())
