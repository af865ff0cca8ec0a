"""DetectionRecord: for each test image, its detections with their matches, and its objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.voc_ap import ELEVEN_POINTS, PASSED, RIGHT

SIZES = ("small", "medium", "large")
"""COCO's ranges of area, after the range of all."""

_RECALLS = np.linspace(0, 1, 101)
_MOST_NUMBERS = 2**22  # of a matrix (detections, resampled test sets)
_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class DetectionRecord:
    """N images with D detections and O objects of C classes, matched at T IoUs in A ranges of area.

    ============== ========= ======= ===================================================================
    name           shape     dtype   meaning
    ============== ========= ======= ===================================================================
    image          (D,)      int32   position in `images`; detections lie by image, then by falling score
    label          (D,)      int32   position in `classes`
    score          (D,)      float64 the higher, the surer
    number         (D,)      int32   how many detections of its image and class are surer
    state          (D, A, T) uint8   WRONG, RIGHT or PASSED
    object_image   (O,)      int32   position in `images`
    object_label   (O,)      int32   position in `classes`
    object_counts  (O, A)    bool    whether the object has to be found
    ============== ========= ======= ===================================================================

    Args:
        images: ids of the test images, in the data set's order.
        classes: names of the classes.
        protocol: coco, with all areas and `SIZES` | voc07 | voc07_exact | voc, with all areas alone.
        ious: (T,), fractions.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    protocol: str
    ious: tuple[float, ...]
    image: NDArray[np.int32]
    label: NDArray[np.int32]
    score: NDArray[np.float64]
    number: NDArray[np.int32]
    state: NDArray[np.uint8]
    object_image: NDArray[np.int32]
    object_label: NDArray[np.int32]
    object_counts: NDArray[np.bool_]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have a value: those with an object to find."""
        present = [self.classes[label] for label in np.unique(self.object_label[self.object_counts[:, 0]])]
        if not present:
            return ()
        if self.protocol != "coco":
            wholes = [f"ap{round(100 * iou)}" for iou in self.ious]
            return (*wholes, *(f"{whole}/{name}" for whole in wholes for name in present))
        sizes = [size for area, size in enumerate(SIZES, 1) if self.object_counts[:, area].any()]
        wholes = ["ap", "ap50", "ap75", *(f"ap_{size}" for size in sizes), "ar1", "ar10", "ar100"]
        return (*wholes, *(f"ar_{size}" for size in sizes), "ap70", *(f"ap/{name}" for name in present))

    def scores(self, metric: str, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """Score B resampled test sets; see `ImageRecord.scores`.

        Of detections with equal scores, those of the earlier image come first, all copies of one together.
        """
        name, _, of_class = metric.partition("/")
        kind, digits, size = re.fullmatch(r"(ap|ar)(\d*)_?(\w*)", name).groups()  # type: ignore[union-attr]
        area = SIZES.index(size) + 1 if size else 0
        chosen = [self.classes.index(of_class)] if of_class else range(len(self.classes))
        ious = list(range(len(self.ious)))
        if kind == "ap" and digits:
            ious = [[round(100 * iou) for iou in self.ious].index(int(digits))]
        most = int(digits) if kind == "ar" and digits else None
        columns = np.ascontiguousarray(np.asarray(weights, np.float64).T)
        total, classes = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
        for label in chosen:
            objects = self._objects(label, area, columns)
            score = self._recall if kind == "ar" else self._precision
            values = score(self._detections[label], columns, objects, area, ious, most)
            total += np.where(objects > 0, values, 0)
            classes += objects > 0
        with np.errstate(invalid="ignore"):
            return 100 * total / classes

    @cached_property
    def _detections(self) -> list[NDArray[np.intp]]:
        """Indices of the detections of each class, by falling score, the images' order where it is equal."""
        order = np.lexsort((np.arange(len(self.score)), -self.score, self.label))
        return np.split(order, np.searchsorted(self.label[order], np.arange(1, len(self.classes))))

    def _objects(self, label: int, area: int, columns: _Numbers) -> _Numbers:
        """(B,) objects of a class to find."""
        chosen = (self.object_label == label) & self.object_counts[:, area]
        return np.bincount(self.object_image[chosen], minlength=len(self.images)) @ columns

    def _recall(
        self,
        detections: NDArray[np.intp],
        columns: _Numbers,
        objects: _Numbers,
        area: int,
        ious: Sequence[int],
        most: int | None,
    ) -> _Numbers:
        """(B,) recall of a class, mean over the IoUs."""
        surest = detections if most is None else detections[self.number[detections] < most]
        right = (self.state[surest, area][:, ious] == RIGHT).sum(1)
        found = np.bincount(self.image[surest], right, minlength=len(self.images)) @ columns
        return np.divide(found, objects * len(ious), out=np.zeros_like(found), where=objects > 0)

    def _precision(
        self,
        detections: NDArray[np.intp],
        columns: _Numbers,
        objects: _Numbers,
        area: int,
        ious: Sequence[int],
        most: int | None,
    ) -> _Numbers:
        """(B,) average precision of a class, mean over the IoUs, some test sets at a time."""
        values = np.zeros_like(objects)
        step = max(1, _MOST_NUMBERS // max(1, len(detections)))
        for first in range(0, len(values), step):
            part = slice(first, first + step)
            weights = columns[:, part][self.image[detections]]
            passed_by = np.cumsum(weights, 0)
            for iou in ious:
                values[part] += self._area(self.state[detections, area, iou], weights, passed_by, objects[part])
        return values / len(ious)

    def _area(self, states: NDArray[np.uint8], weights: _Numbers, passed_by: _Numbers, objects: _Numbers) -> _Numbers:
        """(B,) average precision at one IoU.

        Precision and recall after each true positive are enough. All copies of one have the same highest precision
        from there on, because precision grows with each of them.

        Args:
            states: (D,) of a class's detections, by falling score.
            weights: (D, B), how often each was drawn.
            passed_by: (D, B), their sums up to each detection.
            objects: (B,) to find.
        """
        at, left_out = np.flatnonzero(states == RIGHT), np.flatnonzero(states == PASSED)
        if not len(at):
            return np.zeros_like(objects)
        right, counted = np.cumsum(weights[at], 0), passed_by[at]
        if len(left_out):
            sums = np.concatenate([np.zeros((1, len(objects))), np.cumsum(weights[left_out], 0)])
            counted = counted - sums[np.searchsorted(left_out, at)]
        precision = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
        highest = np.maximum.accumulate(precision[::-1], 0)[::-1]
        reached = self._recalls_reached(right, np.maximum(objects, 1))
        steps = np.diff(reached, axis=0, prepend=0)
        return (steps * highest).sum(0)

    def _recalls_reached(self, right: _Numbers, objects: _Numbers) -> _Numbers:
        """Fraction of the protocol's recalls that are reached: of its thresholds, or of the objects."""
        if self.protocol == "voc":
            return right / objects
        if self.protocol == "voc07_exact":  # in whole numbers
            return (10 * right // objects + 1) / 11
        thresholds = _RECALLS if self.protocol == "coco" else ELEVEN_POINTS
        return np.searchsorted(thresholds, right / objects, "right") / len(thresholds)

    def header(self) -> dict[str, str | list[str] | list[float]]:
        """What is written as text."""
        return {"classes": list(self.classes), "protocol": self.protocol, "ious": list(self.ious)}

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What is written as arrays."""
        names = ("image", "label", "score", "number", "state", "object_image", "object_label", "object_counts")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def joined(cls, images: tuple[str, ...], parts: Sequence[DetectionRecord]) -> DetectionRecord:
        """One record of the images of several, which have the same classes, protocol and IoUs."""
        rows = {name: [part.columns()[name] for part in parts] for name in parts[0].columns()}
        starts = np.cumsum([0, *(len(part.images) for part in parts[:-1])], dtype=np.int32)
        for name in ("image", "object_image"):
            rows[name] = [positions + start for positions, start in zip(rows[name], starts, strict=True)]
        first, columns = parts[0], {name: np.concatenate(columns) for name, columns in rows.items()}
        return cls(images, first.classes, first.protocol, first.ious, **columns)
