"""Average precision as PASCAL VOC's development kits define it (Everingham et al., IJCV 2010, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.boxes import AnnotatedImages, Detections, GroundTruth, arrays

METRICS = ("voc07", "voc07_exact", "voc")
"""Eleven points (2007) in floating point or as fractions, and area under the curve (from 2010 on)."""
ELEVEN_POINTS = np.arange(0.0, 1.1, 0.1)
"""The evaluator's thresholds of recall; its 0.3, 0.6 and 0.7 lie above these fractions."""
WRONG, RIGHT, PASSED = 0, 1, 2
"""States of a detection: false positive, true positive, counted neither way."""


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class.

    Args:
        ap: percent; nan without an object to find.
        recall: (D,) 0..1, after each detection in the order of falling scores, those on difficult objects left out.
        precision: (D,) 0..1.
        objects: number of those to find.
    """

    ap: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    objects: int


@dataclass(frozen=True)
class VocScore:
    """AP at one IoU: `mean` over the classes that have objects, percent, and each class's `Curve` by name."""

    mean: float
    classes: dict[str, Curve]


def voc_ap(
    ground_truth: GroundTruth | AnnotatedImages | Mapping[str, Any],
    detections: Detections | Sequence[Mapping[str, Any]],
    metric: str,
    ious: Sequence[float] = (0.5, 0.7),
) -> dict[float, VocScore]:
    """Score detections by VOC's rules.

    Class by class, in the order of falling scores (the file's where they are equal), each detection is compared with
    the object of its class and image that it overlaps most. Below the IoU asked for it is a false positive; on a
    difficult object it counts neither way; else it is a true positive the first time the object is found, and a false
    one after. The kits' boxes hold whole pixels from 1, the last one included; here boxes are continuous and from 0
    (xmin - 1, ymin - 1, xmax, ymax), for which the plain IoU is the kits' with its + 1.

    The evaluator compares recall with `ELEVEN_POINTS` in floating point: a recall of exactly 3/5 does not reach its
    0.6000000000000001. voc07 does the same; voc07_exact compares fractions, where 3/5 reaches 6/10.

    Args:
        ground_truth: arrays, or COCO's form with `difficult`, see `GroundTruth.of`; crowds are taken for difficult.
        detections: arrays, or COCO's result form.
        metric: voc07 or voc07_exact, mean of the highest precision from each of eleven recalls on; or voc, the area
            under it.
        ious: minimum IoUs of a true positive, one score each.

    Returns:
        A score for each of `ious`.

    Raises:
        ValueError: no such metric, or what is given is not of COCO's form; one line.
    """
    if metric not in METRICS:
        raise ValueError(f"the metric of VOC AP is {metric!r}; choose from: {', '.join(METRICS)}")
    truth, detections = arrays(ground_truth, detections)
    passed = truth.difficult | truth.crowd
    order = np.argsort(-detections.scores, kind="stable")
    curves: dict[float, dict[str, Curve]] = {iou: {} for iou in ious}
    for at, name in enumerate(truth.names):
        mine = order[detections.classes[order] == at]
        objects = np.flatnonzero(truth.classes == at)
        overlap, nearest = nearest_objects(
            detections.images[mine], detections.boxes[mine], truth.images[objects], truth.boxes[objects]
        )
        to_find = ~passed[objects]
        for iou in ious:
            curves[iou][name] = _curve(overlap >= iou, nearest, to_find, metric)
    scores = {}
    for iou, classes in curves.items():
        present = [curve.ap for curve in classes.values() if curve.objects]
        scores[iou] = VocScore(float(np.mean(present)) if present else float("nan"), classes)
    return scores


def voc_metrics(scores: Mapping[float, VocScore]) -> dict[str, float]:
    """Flatten to `ap50`, `ap70`, `ap50/CLASS`, ... percent, nan for a class without objects."""
    whole = {f"ap{round(100 * iou)}": score.mean for iou, score in scores.items()}
    each = {
        f"ap{round(100 * iou)}/{name}": curve.ap
        for iou, score in scores.items()
        for name, curve in score.classes.items()
    }
    return whole | each


def nearest_objects(
    images: NDArray[np.int64],
    boxes: NDArray[np.float64],
    object_images: NDArray[np.int64],
    object_boxes: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the object of its image that each detection overlaps most, the first of equals.

    Returns:
        (D,) IoU with it, -1 in an image without objects; (D,) index of the object.
    """
    by_image = np.argsort(object_images, kind="stable")
    first = np.searchsorted(object_images[by_image], images, "left")
    counts = np.searchsorted(object_images[by_image], images, "right") - first
    overlap, nearest = np.full(len(images), -1.0), np.zeros(len(images), np.int64)
    # Round k compares every detection with object k of its image.
    for number in range(counts.max(initial=0)):
        some = np.flatnonzero(counts > number)
        objects = by_image[first[some] + number]
        iou = _iou(boxes[some], object_boxes[objects])
        better = iou > overlap[some]
        overlap[some[better]], nearest[some[better]] = iou[better], objects[better]
    return overlap, nearest


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of the boxes x, y, width, height of two arrays (N, 4), pair by pair."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def states_of(hit: NDArray[np.bool_], nearest: NDArray[np.int64], to_find: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Say of each detection whether it is WRONG, RIGHT or PASSED.

    Args:
        hit: (D,) by falling score, whether it overlaps enough.
        nearest: (D,) index of the object that it overlaps most.
        to_find: (O,), false for objects that need not be found.
    """
    states = np.full(len(hit), WRONG, np.uint8)
    hits = np.flatnonzero(hit)
    states[hits[np.unique(nearest[hits], return_index=True)[1]]] = RIGHT
    states[hits[~to_find[nearest[hits]]]] = PASSED
    return states


def _curve(hit: NDArray[np.bool_], nearest: NDArray[np.int64], to_find: NDArray[np.bool_], metric: str) -> Curve:
    """Curve of one class, from whether each detection, by falling score, overlaps enough, and with which object."""
    states = states_of(hit, nearest, to_find)
    right = np.cumsum(states[states != PASSED] == RIGHT)
    objects = int(to_find.sum())
    precision = right / np.arange(1, len(right) + 1)
    if objects == 0:
        return Curve(float("nan"), np.full(len(right), np.nan), precision, 0)
    from_here_on = np.maximum.accumulate(precision[::-1])[::-1]
    if metric != "voc":
        at = np.searchsorted(right / objects, ELEVEN_POINTS)
        if metric == "voc07_exact":  # in whole numbers: 10 * hits >= k * objects
            at = np.searchsorted(10 * right, np.arange(11) * objects)
        ap = np.append(from_here_on, 0.0)[at].sum() / 11
    else:
        ap = (np.diff(right, prepend=0) * from_here_on).sum() / objects
    return Curve(100 * float(ap), right / objects, precision, objects)
