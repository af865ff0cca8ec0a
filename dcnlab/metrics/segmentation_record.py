"""SegmentationRecord: for each test image and class, the pixels that make its intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def sums_of(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Diagonal, row sums and column sums, (3, C), of a confusion matrix, see `miou.confusion_matrix`."""
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])


@dataclass(frozen=True)
class SegmentationRecord:
    """Pixels by image and class: diagonal, row sums and column sums of each image's confusion matrix.

    Args:
        images: ids of the N test images, in the data set's order.
        classes: names of the C classes.
        hits: (N, C) int64, pixels labelled and predicted as the class.
        labelled: (N, C) int64, pixels labelled as the class.
        predicted: (N, C) int64, pixels predicted as the class, ignored ones left out.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    hits: NDArray[np.int64]
    labelled: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, classes: Sequence[str], by_image: Mapping[int, NDArray[np.int64]]) -> SegmentationRecord:
        """The record of images by their positions, with the `sums_of` each one's confusion matrix."""
        rows = np.array(list(by_image.values()), np.int64).reshape(-1, 3, len(classes))
        return cls(tuple(map(str, by_image)), tuple(classes), rows[:, 0], rows[:, 1], rows[:, 2])

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: miou, and iou/CLASS of each class that is labelled or predicted."""
        present = (self.labelled + self.predicted).sum(0).tolist()
        names = [f"iou/{name}" for name, pixels in zip(self.classes, present, strict=True) if pixels]
        return ("miou", *names) if names else ()

    def scores(self, metric: str, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """Score B resampled test sets; see `ImageRecord.scores`."""
        if metric == "miou":
            ious = self._ious(weights, slice(None))
            known = ~np.isnan(ious)
            with np.errstate(invalid="ignore"):
                return np.where(known, ious, 0).sum(1) / known.sum(1)
        at = self.classes.index(metric.removeprefix("iou/"))
        return self._ious(weights, slice(at, at + 1))[:, 0]

    def _ious(self, weights: NDArray[np.integer], chosen: slice) -> NDArray[np.float64]:
        """(B, C) percent; nan for a class that is neither labelled nor predicted."""
        weights = np.asarray(weights, np.float64)  # sums of pixels stay exact up to 2**53
        hits = weights @ self.hits[:, chosen]
        union = weights @ (self.labelled + self.predicted - self.hits)[:, chosen]
        with np.errstate(invalid="ignore"):
            return 100 * hits / union

    def header(self) -> dict[str, list[str]]:
        """What is written as text: the names of the classes."""
        return {"classes": list(self.classes)}

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What is written as arrays."""
        return {"hits": self.hits, "labelled": self.labelled, "predicted": self.predicted}

    @classmethod
    def joined(cls, images: tuple[str, ...], parts: Sequence[SegmentationRecord]) -> SegmentationRecord:
        """One record of the images of several, which have the same classes."""
        rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].columns()}
        return cls(images, parts[0].classes, **rows)
