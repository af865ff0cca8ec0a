"""Rows of a table: the runs of each seed, where the folds of a data set are pooled as one test set."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.ablations.tables.run_record import Record
from dcnlab.io.errors import DataError
from dcnlab.io.text import one_line
from dcnlab.metrics import image_records
from dcnlab.metrics.image_records import ImageRecord


@dataclass(frozen=True)
class SeedRuns:
    """The runs of one seed in one row: a single run, or one for each fold of the data set."""

    seed: int
    records: tuple[Record, ...]

    @functools.cached_property
    def images(self) -> ImageRecord | None:
        """What its test images contribute to the scores; None where a run does not say.

        Raises:
            DataError: the file is broken, or two folds hold one image.
        """
        parts = [record.images for record in self.records]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return known[0] if len(known) == 1 else image_records.pool(known)

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """Its scores: those of its run, or of all folds' test images as one test set."""
        if self.records[0].fold is None:
            return self.records[0].results["metrics"]
        if self.images is None:
            return {}
        whole = np.ones((1, len(self.images.images)), dtype=np.int64)
        scores = {metric: float(self.images.scores(metric, whole)[0]) for metric in self.images.metrics}
        return {metric: score for metric, score in scores.items() if not np.isnan(score)}


@dataclass(frozen=True)
class Row:
    """One row of a table and the runs behind it."""

    parameters: dict[str, Any]
    """Values of the swept parameters."""
    records: list[Record]
    """One for each seed, and of each seed one for each fold."""
    wanted: int
    """The number of seeds that the sweep asks for."""
    settings: dict[str, Any]
    """The settings of one of its runs, finished or not."""

    @property
    def seeds(self) -> list[SeedRuns]:
        """The seeds that count, in order."""
        return self._seeds_and_notes[0]

    @property
    def notes(self) -> list[str]:
        """A line for each seed that does not count, because a fold is missing or cannot be pooled."""
        return self._seeds_and_notes[1]

    @functools.cached_property
    def _seeds_and_notes(self) -> tuple[list[SeedRuns], list[str]]:
        seeds: list[SeedRuns] = []
        notes: list[str] = []
        folded: dict[int, list[Record]] = {}
        for record in sorted(self.records, key=lambda record: record.seed):
            if record.fold is None:
                seeds.append(SeedRuns(record.seed, (record,)))
            else:
                folded.setdefault(record.seed, []).append(record)
        for seed, members in folded.items():
            runs = SeedRuns(seed, tuple(sorted(members, key=lambda record: record.fold or (0, 0))))
            fault = _fault(runs)
            if fault is None:
                seeds.append(runs)
            else:
                notes.append(f"{self._name}seed {seed} is left out: {fault}")
        return seeds, notes

    @property
    def _name(self) -> str:
        return "".join(f"{key.rpartition('.')[2]} {value}, " for key, value in self.parameters.items())


def _fault(runs: SeedRuns) -> str | None:
    """Why the folds of a seed cannot be scored as one test set; None where they can."""
    folds = [record.fold for record in runs.records if record.fold is not None]
    count = folds[0][1]
    missing = [f"{number}/{count}" for number in range(1, count + 1) if (number, count) not in folds]
    if missing:
        return f"it lacks {'fold' if len(missing) == 1 else 'folds'} {_listed(missing)}"
    try:
        if runs.images is None:
            lacking = [record.folder for record in runs.records if record.images is None]
            return f"{lacking[0]} has no test_images.npz, and folds are scored from it"
    except DataError as error:
        return one_line(error)
    return None


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
