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
        weights = np.asarray(weights, np.float64)
        right = weights @ self.correct[self.metrics.index(metric)]
        with np.errstate(invalid="ignore"):
            return 100 * right / weights.sum(1)

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
