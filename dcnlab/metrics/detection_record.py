"""DetectionRecord: for each test image, its detections with their matches, and its objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.voc_ap import RIGHT

SIZES = ("small", "medium", "large")
"""COCO's ranges of area, after the range of all."""

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
        drawn = np.ascontiguousarray(weights, np.float64)
        total, classes = np.zeros(len(drawn)), np.zeros(len(drawn))
        for label in chosen:
            objects = self._objects(label, area, drawn)
            score = self._recall if kind == "ar" else self._precision
            values = score(self._detections[label], drawn, objects, area, ious, most)
            total += np.where(objects > 0, values, 0)
            classes += objects > 0
        with np.errstate(invalid="ignore"):
            return 100 * total / classes

    @cached_property
    def _detections(self) -> list[NDArray[np.intp]]:
        """Indices of the detections of each class, by falling score, the images' order where it is equal."""
        order = np.lexsort((np.arange(len(self.score)), -self.score, self.label))
        return np.split(order, np.searchsorted(self.label[order], np.arange(1, len(self.classes))))

    def _objects(self, label: int, area: int, drawn: _Numbers) -> _Numbers:
        """(B,) objects of a class to find."""
        chosen = (self.object_label == label) & self.object_counts[:, area]
        return drawn @ np.bincount(self.object_image[chosen], minlength=len(self.images))

    def _recall(
        self,
        detections: NDArray[np.intp],
        drawn: _Numbers,
        objects: _Numbers,
        area: int,
        ious: Sequence[int],
        most: int | None,
    ) -> _Numbers:
        """(B,) recall of a class, mean over the IoUs."""
        surest = detections if most is None else detections[self.number[detections] < most]
        right = (self.state[surest, area][:, ious] == RIGHT).sum(1)
        hits = drawn @ np.bincount(self.image[surest], right, minlength=len(self.images))
        return np.divide(hits, objects * len(ious), out=np.zeros_like(hits), where=objects > 0)

    def _precision(
        self,
        detections: NDArray[np.intp],
        drawn: _Numbers,
        objects: _Numbers,
        area: int,
        ious: Sequence[int],
        most: int | None,
    ) -> _Numbers:
        """(B,) average precision of a class, mean over the IoUs."""
        from dcnlab.metrics.drawn_precision import drawn_precision  # numba: a second that other tasks' tables save

        images, states = self.image[detections], np.ascontiguousarray(self.state[detections, area].T)
        return sum(
            (drawn_precision(self.protocol, states[iou], images, drawn, objects) for iou in ious),
            start=np.zeros_like(objects),
        ) / len(ious)

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
