"""Runs with results, from run folders or Weights & Biases, and the settings in which they differ."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.config import identity
from dcnlab.config.names import BACKBONES, IMAGENET, Backbone
from dcnlab.config.run_settings import RunSettings
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import image_records
from dcnlab.metrics.image_records import ImageRecord
from dcnlab.training import results_file, run_search
from dcnlab.training.run_folder import RunFolder

FOLD = "data.fold"
"""The setting that names the part of a data set that is tested, `k/n`; null: the data set's own split."""
_DIGITS = 8
"""Of a hash, that are shown."""
_NAMED = 3
"""Settings that differ and are named; further ones are counted."""


@dataclass(frozen=True)
class Record:
    """A run that holds results."""

    folder: Path
    """The run folder, or for a run on Weights & Biases ENTITY/PROJECT/NAME/ID."""
    settings: dict[str, Any]
    """The settings that decide its results, as dotted keys of the config."""
    results: dict[str, Any]
    """In the form of results.json."""
    written: float
    """When, seconds since 1970: of two equal runs the newer counts."""

    @property
    def id(self) -> str:
        """The id of its trial, which does not depend on its folder."""
        return digest([self.results["parameters"], identity.changed(self.settings)])[:12]

    @property
    def name(self) -> str:
        """The name that runs of one experiment or sweep share."""
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
    def fold(self) -> tuple[int, int] | None:
        """The fold that is tested and the number of folds; None for the data set's own split."""
        return _fold(self.settings)

    @functools.cached_property
    def images(self) -> ImageRecord | None:
        """What each test image contributes to the scores, read when first asked for; None where the run kept none.

        Raises:
            DataError: the file is broken.
        """
        path = RunFolder(self.folder).test_images
        return image_records.read(path) if path.is_file() else None

    @property
    def rest(self) -> dict[str, Any]:
        """The settings that rows of one table must share: all but the seed, the fold and what the sweep set."""
        return self.without(self.results["parameters"])

    @property
    def code(self) -> str:
        """The commit that it ran from, or the version if it ran from an installed package."""
        environment = self.results["environment"]
        return environment.get("git") or f"dcnlab {environment.get('dcnlab')}"

    @property
    def weights(self) -> str:
        """The weights that the backbone began with: none, torchvision's name, or a file's name and its hash's start."""
        stated = str(self.settings["model.backbone.weights"])
        recorded = self.results["model"].get("weights")
        if stated == "none":
            return stated
        if recorded is None:  # a run from before they were recorded, when imagenet was torchvision's newest
            networks = BACKBONES.get(self.settings["model.backbone.name"], Backbone())
            return IMAGENET[networks.imagenet[-1]] if stated == "imagenet" and networks.imagenet else Path(stated).name
        if stated in IMAGENET:
            return recorded["name"].rpartition(".")[2]
        return " ".join([Path(recorded["name"]).name, (recorded.get("sha256") or "")[:_DIGITS]]).strip()

    def without(self, varied: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
        """The settings without the seed and those that vary; of a fold only the number of folds stays."""
        kept = {key: value for key, value in self.settings.items() if key == FOLD or key not in ("seed", *varied)}
        return of_all_folds(kept)


def _fold(settings: dict[str, Any]) -> tuple[int, int] | None:
    number, _, count = str(settings.get(FOLD) or "").partition("/")
    return (int(number), int(count)) if number.isdigit() and count.isdigit() else None


def of_all_folds(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that are equal for all folds of one data set: `k/5` stands for each of five."""
    fold = _fold(settings)
    return settings if fold is None else {**settings, FOLD: f"k/{fold[1]}"}


def records(roots: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Every run folder below `roots` that holds results, and a note for each that cannot be read.

    Raises:
        ConfigError: one of the roots is not there.
    """
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--runs {root}: no such folder")
    settings = RunSettings()
    readable, notes, aside = [], [], 0
    for folder in run_search.discover(list(roots)):
        if RunFolder(folder).is_moved_aside():
            aside += 1
            continue
        try:
            results = RunFolder(folder).read_results()
            if results is not None:
                written = (folder / "results.json").stat().st_mtime
                readable.append(Record(folder, settings.of(folder), results, written))
        except ConfigError as error:
            notes.append(f"left out: {error}")
        except OSError as error:  # a folder that may not be looked into
            notes.append(f"left out: {folder}: {error.strerror}")
    if aside:
        notes.append(f"left out: {aside} diverged {'run' if aside == 1 else 'runs'} that began again in another folder")
    return readable, notes


def means_over(records: Sequence[Record]) -> list[str]:
    """Notes on the runs whose means do not cover all classes, one for each set of classes."""
    notes = Counter(text for record in records if (text := results_file.means_over(record.results)) is not None)
    return [f"{count} of {len(records)} runs: {text}" for text, count in notes.items()]


def differences(ours: dict[str, Any], here: str, theirs: dict[str, Any], there: str) -> str:
    """In words, the settings that differ: the first three, and how many more.

    Args:
        ours: settings.
        here: where those are, such as "in the file".
        theirs: settings.
        there: where those are.
    """
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    named = [f"{key} is {ours.get(key)} {here} and {theirs.get(key)} {there}" for key in keys[:_NAMED]]
    more = len(keys) - len(named)
    return ", ".join(named) + (f", and {more} more {'setting' if more == 1 else 'settings'}" if more else "")
