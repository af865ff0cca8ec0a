"""Runs with results, from run folders or Weights & Biases, and the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.config import identity
from dcnlab.config.load import read_run
from dcnlab.io.errors import ConfigError
from dcnlab.training import results_file, run_folder
from dcnlab.training.run_folder import RunFolder

_NAMED = 3
"""Settings that differ and are named; of more there is the number alone."""


@dataclass(frozen=True)
class Record:
    """A run that holds results."""

    folder: Path
    """The run folder, or for a run on Weights & Biases ENTITY/PROJECT/NAME/ID."""
    settings: dict[str, Any]
    """What it computed, as dotted keys of the config."""
    results: dict[str, Any]
    """In the form of results.json."""
    written: float
    """When, seconds since 1970: of two runs of the same, the newer counts."""

    @property
    def id(self) -> str:
        """Equal to the id of the trial that it is a run of, wherever it lies."""
        return digest([self.results["parameters"], identity.changed(self.settings)])[:12]

    @property
    def name(self) -> str:
        """What runs of one experiment or sweep share."""
        return self.folder.parent.name

    @property
    def seed(self) -> int:
        """Of its weights and training order."""
        return self.results["seed"]

    @property
    def finished(self) -> bool:
        """Whether it has a final score."""
        return self.results["status"] == "finished"

    @property
    def rest(self) -> dict[str, Any]:
        """The settings that rows of one table must share: all but the seed and what the sweep set."""
        return self.without(self.results["parameters"])

    @property
    def code(self) -> str:
        """The commit that it ran from, or the version where there was no checkout."""
        environment = self.results["environment"]
        return environment.get("git") or f"dcnlab {environment.get('dcnlab')}"

    def without(self, varied: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
        """The settings without the seed and those that vary."""
        return {key: value for key, value in self.settings.items() if key != "seed" and key not in varied}


def records(roots: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Every run folder below `roots` that holds results, and a note for each that cannot be read.

    Raises:
        ConfigError: one of the roots is not there.
    """
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--runs {root}: no such folder")
    found, notes, aside = [], [], 0
    for folder in run_folder.discover(list(roots)):
        if RunFolder(folder).is_moved_aside():
            aside += 1
            continue
        try:
            results = RunFolder(folder).read_results()
            if results is not None:
                settings = identity.settings(read_run(folder))
                found.append(Record(folder, settings, results, (folder / "results.json").stat().st_mtime))
        except ConfigError as error:
            notes.append(f"left out: {error}")
        except OSError as error:  # a folder that may not be looked into
            notes.append(f"left out: {folder}: {error.strerror}")
    if aside:
        notes.append(f"left out: {aside} diverged {'run' if aside == 1 else 'runs'} that began again in another folder")
    return found, notes


def means_over(found: Sequence[Record]) -> list[str]:
    """Notes on the runs whose means do not cover all classes, one for each set of classes."""
    said = Counter(text for record in found if (text := results_file.means_over(record.results)) is not None)
    return [f"{count} of {len(found)} runs: {text}" for text, count in said.items()]


def differences(one: dict[str, Any], here: str, other: dict[str, Any], there: str) -> str:
    """In words, the settings that differ: the first three, and how many more.

    Args:
        one: settings.
        here: where those are, such as "in the file".
        other: settings.
        there: where those are.
    """
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    said = [f"{key} is {one.get(key)} {here} and {other.get(key)} {there}" for key in keys[:_NAMED]]
    more = len(keys) - len(said)
    return ", ".join(said) + (f", and {more} more {'setting' if more == 1 else 'settings'}" if more else "")
