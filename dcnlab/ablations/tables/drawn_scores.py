"""Scores of runs on test sets that are drawn again from their test images, for the bootstrap of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcnlab.ablations.tables import bootstrap
from dcnlab.ablations.tables.rows import Row, SeedRuns
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.metrics.classification_record import ClassificationRecord
from dcnlab.metrics.image_records import ImageRecord

_EQUAL = 1e-4
"""Percent: a score from test_images.npz further from results.json (float32) is of another test."""


class DrawnScores:
    """Draws the same test images for all runs of a table, and scores each run once for each metric.

    Args:
        block: consecutive images that are drawn together.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._drawn: dict[tuple[Any, ...], np.ndarray] = {}
        self._intervals = 0
        self._reasons: Counter[str] = Counter()

    @property
    def notes(self) -> list[str]:
        """A line for each reason why bootstrap intervals are over seeds alone."""
        return [
            f"{count} of {self._intervals} intervals are over seeds alone, not over test images: {reason}"
            for reason, count in self._reasons.items()
        ]

    def differences(self, row: Row, base: Row, metric: str, whole: Mapping[int, float]) -> np.ndarray:
        """The differences of two rows by seed, for each draw of the test images: (seeds, `DRAWS`).

        Args:
            row: of the table.
            base: that it is compared with.
            metric: name.
            whole: the differences on the whole test set, by seed: returned, (seeds,), where images cannot be drawn.
        """
        self._intervals += 1
        ours, theirs = ({runs.seed: runs for runs in of.seeds} for of in (row, base))
        pairs = [(ours[seed], theirs[seed]) for seed in whole]
        try:
            members = [runs for pair in pairs for runs in pair]
            images = self._images(members, metric)
            self._score_together(members, metric, images)
            drawn = [[self._scores(runs, metric, images) for runs in pair] for pair in pairs]
        except _OverSeedsAlone as reason:
            self._reasons[str(reason)] += 1
            return np.array(list(whole.values()))
        return np.array([of_row - of_base for of_row, of_base in drawn])

    def _images(self, members: Sequence[SeedRuns], metric: str) -> tuple[str, ...]:
        """The test images of some runs, in the order of the first.

        Raises:
            _OverSeedsAlone: a run does not say what they contribute to the metric, or they differ.
        """
        records = [_record(runs, metric) for runs in members]
        first = records[0].images
        if any(record.images != first and set(record.images) != set(first) for record in records):
            raise _OverSeedsAlone("the runs were tested on different images")
        return first

    def _score_together(self, members: Sequence[SeedRuns], metric: str, images: tuple[str, ...]) -> None:
        """Score the classifiers whose test images have one order: so much quicker than one by one.

        Raises:
            ConfigError: all images are one block.
        """
        records = {self._key(runs, metric, images): _record(runs, metric) for runs in members}
        together = {
            key: record
            for key, record in records.items()
            if key not in self._drawn and isinstance(record, ClassificationRecord) and record.images == images
        }
        if together:
            scores = ClassificationRecord.scores_of([*together.values()], metric, self._counts(images))
            self._drawn |= dict(zip(together, scores, strict=True))

    @staticmethod
    def _key(runs: SeedRuns, metric: str, images: tuple[str, ...]) -> tuple[Any, ...]:
        return (*(str(run.folder) for run in runs.records), metric, images)

    def _counts(self, images: tuple[str, ...]) -> np.ndarray:
        if len(images) <= self._block and self._block > 1:
            raise ConfigError(f"--block is {self._block}; the test set has {len(images)} images")
        return bootstrap.image_counts(len(images), self._block)

    def _scores(self, runs: SeedRuns, metric: str, images: tuple[str, ...]) -> np.ndarray:
        """The scores of `DRAWS` draws of the test images.

        Raises:
            _OverSeedsAlone: the images do not give the score in results.json.
            ConfigError: all images are one block.
        """
        key = self._key(runs, metric, images)
        if key not in self._drawn:
            record, counts = _record(runs, metric), self._counts(images)
            if record.images != images:
                position = {name: at for at, name in enumerate(images)}
                counts = counts[:, [position[name] for name in record.images]]
            self._drawn[key] = record.scores(metric, counts)
        scores = self._drawn[key]
        if not abs(scores[0] - runs.metrics[metric]) < _EQUAL:
            folder = runs.records[0].folder
            raise _OverSeedsAlone(f"{folder}/test_images.npz is not of the test in results.json; evaluate it again")
        return scores[1:]


class _OverSeedsAlone(Exception):
    """Why the test images of two rows cannot be drawn again."""


def _record(runs: SeedRuns, metric: str) -> ImageRecord:
    """What the test images of a run contribute to a metric.

    Raises:
        _OverSeedsAlone: that is not known.
    """
    try:
        images = runs.images
    except DataError as error:
        raise _OverSeedsAlone(one_line(error)) from error
    if images is None:
        raise _OverSeedsAlone("runs have no test_images.npz")
    if metric not in images.metrics:
        raise _OverSeedsAlone(f"test_images.npz does not hold {metric}")
    return images
