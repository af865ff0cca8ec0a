"""ClassificationRecord: for each test image, whether its class was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassificationRecord:
    """Right or wrong by metric and image.

    Args:
        images: ids of the N test images, in the data set's order.
        metrics: names of the M metrics: top1, top5.
        correct: (M, N) bool.
    """

    images: tuple[str, ...]
    metrics: tuple[str, ...]
    correct: NDArray[np.bool_]

    def scores(self, metric: str, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """Score B resampled test sets; see `ImageRecord.scores`."""
        return self.scores_of([self], metric, weights)[0]

    @staticmethod
    def scores_of(
        records: Sequence[ClassificationRecord], metric: str, weights: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Score several records of the same N images, (records, B), by one product of matrices.

        Sums of whole numbers are exact, so the scores are those that each record has by itself.
        """
        weights = np.asarray(weights, np.float64)
        right = weights @ np.stack([record.correct[record.metrics.index(metric)] for record in records], 1)
        with np.errstate(invalid="ignore"):
            return np.ascontiguousarray((100 * right / weights.sum(1)[:, None]).T)

    def header(self) -> dict[str, list[str]]:
        """What is written as text: the names of the metrics."""
        return {"metrics": list(self.metrics)}

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What is written as arrays."""
        return {"correct": self.correct}

    @classmethod
    def joined(cls, images: tuple[str, ...], parts: Sequence[ClassificationRecord]) -> ClassificationRecord:
        """One record of the images of several, which have the same metrics."""
        return cls(images, parts[0].metrics, np.concatenate([part.correct for part in parts], 1))
