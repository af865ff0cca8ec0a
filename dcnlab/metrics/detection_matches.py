"""Matches of detections and objects, image by image, as VOC's and COCO's evaluators make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.boxes import Detections, GroundTruth
from dcnlab.metrics.detection_record import DetectionRecord
from dcnlab.metrics.voc_ap import PASSED, RIGHT, WRONG, nearest_objects, states_of

COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
COCO_AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Least and largest area of all, small, medium and large objects, pixels; both included."""
COCO_MOST = 100
"""Detections of an image and class."""


def detection_record(
    truth: GroundTruth, detections: Detections, protocol: str, ious: tuple[float, ...] = (0.5, 0.7)
) -> DetectionRecord:
    """Match all detections, and keep what the scores are made of.

    Args:
        truth: objects; its ids are the images' names.
        detections: of the same images and classes.
        protocol: coco | voc07 | voc07_exact | voc.
        ious: minimum IoUs of VOC's protocols; COCO's has ten.
    """
    order = np.lexsort((np.arange(len(detections.scores)), -detections.scores, detections.images))
    number = _numbers(detections.images[order], detections.classes[order])
    if protocol == "coco":
        order, number = order[number < COCO_MOST], number[number < COCO_MOST]
    ordered = Detections(*(getattr(detections, name)[order] for name in ("images", "classes", "boxes", "scores")))
    if protocol == "coco":
        ious, counts = COCO_IOUS, _coco_counts(truth)
        state = _coco_states(truth, ordered, number, counts)
    else:
        counts = ~(truth.difficult | truth.crowd)[:, None]
        state = _voc_states(truth, ordered, ious, counts[:, 0])
    kept = counts.any(1)
    return DetectionRecord(
        images=tuple(str(name) for name in truth.image_ids),
        classes=tuple(truth.names),
        protocol=protocol,
        ious=ious,
        image=ordered.images.astype(np.int32),
        label=ordered.classes.astype(np.int32),
        score=ordered.scores.astype(np.float64),
        number=number,
        state=state,
        object_image=truth.images[kept].astype(np.int32),
        object_label=truth.classes[kept].astype(np.int32),
        object_counts=counts[kept],
    )


def _numbers(images: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number the detections of each image and class from 0, in their order."""
    order = np.lexsort((np.arange(len(images)), classes, images))
    group = np.stack([images[order], classes[order]])
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (group[:, 1:] != group[:, :-1]).any(0)
    at = np.arange(len(order))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = at - np.maximum.accumulate(np.where(is_first, at, 0))
    return numbers


def _voc_states(
    truth: GroundTruth, detections: Detections, ious: tuple[float, ...], to_find: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """(D, 1, T) states; copies of an image match alone, so that its own detections decide."""
    state = np.full((len(detections.scores), 1, len(ious)), WRONG, np.uint8)
    for label in range(len(truth.names)):
        mine, objects = np.flatnonzero(detections.classes == label), np.flatnonzero(truth.classes == label)
        overlap, nearest = nearest_objects(
            detections.images[mine], detections.boxes[mine], truth.images[objects], truth.boxes[objects]
        )
        for at, iou in enumerate(ious):
            state[mine, 0, at] = states_of(overlap >= iou, nearest, to_find[objects])
    return state


def _in_areas(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N, A), whether an area is in each of COCO's ranges."""
    low, high = np.array(COCO_AREAS).T
    return (areas[:, None] >= low) & (areas[:, None] <= high)


def _coco_counts(truth: GroundTruth) -> NDArray[np.bool_]:
    """(B, A), whether an object has to be found."""
    return _in_areas(truth.areas) & ~(truth.crowd | truth.difficult)[:, None]


@dataclass
class _Best:
    """The best object of some detections at each area and IoU: (S, A, T) its IoU, and its index or -1."""

    iou: NDArray[np.float64]
    index: NDArray[np.int64]

    @classmethod
    def none(cls, detections: int) -> _Best:
        shape = (detections, len(COCO_AREAS), len(COCO_IOUS))
        least = np.minimum(COCO_IOUS, 1 - 1e-10)
        return cls(np.broadcast_to(least, shape).copy(), np.full(shape, -1))

    def take(self, rows: NDArray[np.intp], allowed: NDArray[np.bool_], iou: NDArray[np.float64], index: Any) -> None:
        """Take objects (R,) for the detections `rows` where they are allowed (R, A, T); of equal ones the last."""
        better = allowed & (iou[:, None, None] >= self.iou[rows])
        self.iou[rows] = np.where(better, iou[:, None, None], self.iou[rows])
        self.index[rows] = np.where(better, index[:, None, None], self.index[rows])


def _coco_states(
    truth: GroundTruth, detections: Detections, number: NDArray[np.int32], counts: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """(D, A, T) states by COCO's greedy matching: the surest detection of each image and class chooses first.

    It takes the object that it overlaps most of those that count and are free; if there is none, of the ignored ones,
    where a crowd is free for any number.
    """
    classes = len(truth.names)
    order = np.argsort(truth.images * classes + truth.classes, kind="stable")
    keys = (truth.images * classes + truth.classes)[order]
    wanted = detections.images * classes + detections.classes
    first, end = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    crowd = truth.crowd | truth.difficult
    taken = np.zeros((len(keys), len(COCO_AREAS), len(COCO_IOUS)), np.bool_)
    state = np.full((len(wanted), len(COCO_AREAS), len(COCO_IOUS)), WRONG, np.uint8)
    state[~_in_areas(detections.boxes[:, 2:].prod(1))] = PASSED
    for turn in range(int(number.max(initial=-1)) + 1):
        chosen = np.flatnonzero((number == turn) & (end > first))
        counting, ignored = _Best.none(len(chosen)), _Best.none(len(chosen))
        for step in range(int((end - first)[chosen].max(initial=0))):
            rows = np.flatnonzero((end - first)[chosen] > step)
            objects = order[first[chosen[rows]] + step]
            iou = _coco_iou(detections.boxes[chosen[rows]], truth.boxes[objects], crowd[objects])
            free = ~taken[objects] | crowd[objects, None, None]
            counting.take(rows, free & counts[objects][:, :, None], iou, objects)
            ignored.take(rows, free & ~counts[objects][:, :, None], iou, objects)
        found, passed = counting.index >= 0, (counting.index < 0) & (ignored.index >= 0)
        state[chosen] = np.where(found, RIGHT, np.where(passed, PASSED, state[chosen]))
        for best, matched in ((counting.index, found), (ignored.index, passed)):
            rows, areas, ious = np.nonzero(matched)
            taken[best[rows, areas, ious], areas, ious] = True
    return state


def _coco_iou(
    boxes: NDArray[np.float64], objects: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of the boxes x, y, width, height of two arrays (N, 4), pair by pair; of a crowd, over the first's area."""
    low, high = np.maximum(boxes[:, :2], objects[:, :2]), np.minimum(_corner(boxes), _corner(objects))
    common = np.clip(high - low, 0, None).prod(1)
    area = boxes[:, 2:].prod(1)
    whole = np.where(crowd, area, area + objects[:, 2:].prod(1) - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)


def _corner(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return boxes[:, :2] + boxes[:, 2:]
