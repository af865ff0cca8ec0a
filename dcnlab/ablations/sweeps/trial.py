"""Trials of a sweep: its points, each with a checked config and the folder of its run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import search
from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.sweeps.sweep_file import Sweep
from dcnlab.config import identity
from dcnlab.config.overrides import parse_override
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError

MOST_TRIALS = 10_000
"""Of a sweep; the configs of all trials are checked before the first one starts."""


@dataclass(frozen=True)
class Trial:
    """One point of a sweep."""

    parameters: dict[str, Any]
    config: Config

    @property
    def id(self) -> str:
        """The run folder's name: a hash of the settings that decide what it computes, and of the sweep's parameters."""
        return digest([self.parameters, identity.changed(identity.settings(self.config))])[:12]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.out) / self.config.name / self.id

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.parameters.items()) or "the only one"


def trials_of(sweep: Sweep, overrides: Sequence[str] = (), limit: int | None = None) -> list[Trial]:
    """Every trial of a sweep, with checked configs; equal trials once.

    Args:
        sweep: the file.
        overrides: key=value of the command line; over a swept parameter it puts that one value in place of all.
        limit: how many points a random search without `run_cap` draws.

    Raises:
        ConfigError: there are more than `MOST_TRIALS`, or a trial's config does not hold; names the trial.
    """
    fixed = dict(map(parse_override, [*sweep.overrides, *overrides]))
    by_id: dict[str, Trial] = {}
    for point in _points(sweep, limit):  # made one by one; see MOST_TRIALS
        trial = trial_at(sweep, {name: fixed.get(name, value) for name, value in point.items()}, overrides)
        by_id.setdefault(trial.id, trial)
    return list(by_id.values())


def trial_at(sweep: Sweep, parameters: dict[str, Any], overrides: Sequence[str] = ()) -> Trial:
    """The trial of one point.

    Args:
        sweep: the file.
        parameters: the point, dotted or nested.
        overrides: key=value of the command line.

    Raises:
        ConfigError: its config does not hold; names the trial.
    """
    arguments = [f"name={sweep.name}", *sweep.logger, *sweep.overrides, *overrides]
    try:
        config = sweep.experiment.config(arguments, parameters)
    except ConfigError as error:
        described = " ".join(f"{key}={value}" for key, value in parameters.items())
        raise ConfigError(f"{sweep.path}: trial {described}: {error}") from error
    return Trial(config.sweep, config)


def _points(sweep: Sweep, limit: int | None) -> Iterator[dict[str, Any]]:
    grid = sweep.method == "grid"
    points = search.grid_size(sweep.parameters) if grid else None
    count = sweep.run_cap or (points if grid else limit)
    if count is None:
        raise ConfigError(f"{sweep.path}: random search never ends; state run_cap, or --limit")
    if points is not None:
        count = min(count, points)
    if count > MOST_TRIALS:
        what = "its grid has" if grid else "run_cap or --limit asks for"
        raise ConfigError(f"{sweep.path}: {what} {count} trials; allowed are {MOST_TRIALS}; run_cap states fewer")
    seed = int(digest(sweep.parameters)[:16], 16)
    drawn = search.grid(sweep.parameters) if grid else search.random(sweep.parameters, seed)
    return itertools.islice(drawn, count)
