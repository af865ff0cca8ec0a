"""Average precision and recall as COCO's own tools compute them, by faster-coco-eval or by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.gc_paused import no_collector
from dcnlab.metrics.boxes import Detections, GroundTruth, arrays

BACKENDS = ("faster", "pycocotools")
_SIZES = ("small", "medium", "large")


def coco_ap(
    ground_truth: GroundTruth | Mapping[str, Any],
    detections: Detections | Sequence[Mapping[str, Any]],
    backend: str = "faster",
) -> dict[str, float]:
    """Score detections by COCO's rules: at most 100 an image and class, IoU 0.50 to 0.95 in steps of 0.05.

    Objects that need not be found are ignored as COCO ignores crowds: a detection whose area lies in one by at least
    the IoU threshold, and that matches no other object, counts neither way. Crowds are ignored, and so are VOC's
    difficult objects.

    Args:
        ground_truth: in COCO's form, see `GroundTruth.of`.
        detections: in COCO's result form.
        backend: faster, which is faster-coco-eval, or pycocotools; their figures are equal.

    Returns:
        Percent: the twelve numbers ap, ap50, ap75, ap_small, ap_medium, ap_large, ar1, ar10, ar100, ar_small, ar_medium
        and ar_large, further ap70, and ap/CLASS. 0 where nothing is found, nan where there is nothing to find
        (pycocotools' -1).

    Raises:
        ValueError: no such backend, or what is given is not of COCO's form; one line.
    """
    if backend not in BACKENDS:
        raise ValueError(f"the backend of COCO AP is {backend!r}; choose from: {', '.join(BACKENDS)}")
    with no_collector():
        truth, found = arrays(ground_truth, detections)
        precision, recall, ious = _evaluate(*_in_coco_form(truth, found), backend)
    at = {percent: int(np.argmin(np.abs(100 * ious - percent))) for percent in (50, 70, 75)}
    # precision (IoU, recall, class, size, most detections), recall the same without its second axis
    scores = {"ap": _mean(precision[:, :, :, 0, 2])}
    scores |= {f"ap{percent}": _mean(precision[at[percent], :, :, 0, 2]) for percent in (50, 75)}
    scores |= {f"ap_{size}": _mean(precision[:, :, :, n, 2]) for n, size in enumerate(_SIZES, 1)}
    scores |= {f"ar{most}": _mean(recall[:, :, 0, n]) for n, most in enumerate((1, 10, 100))}
    scores |= {f"ar_{size}": _mean(recall[:, :, n, 2]) for n, size in enumerate(_SIZES, 1)}
    scores["ap70"] = _mean(precision[at[70], :, :, 0, 2])
    return scores | {f"ap/{name}": _mean(precision[:, :, n, 0, 2]) for n, name in enumerate(truth.names)}


def _mean(values: NDArray[np.float64]) -> float:
    there = values[values > -1]
    return 100 * float(there.mean()) if there.size else float("nan")


def _in_coco_form(truth: GroundTruth, found: Detections) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as COCO's tools want them: ids from 1 (0 means unmatched), ordered as they order the data set's own."""
    rank = {
        name: number for number, name in enumerate(sorted(truth.image_ids, key=lambda name: (str(type(name)), name)), 1)
    }
    number_of = np.array([rank[name] for name in truth.image_ids], np.int64)
    images = [{"id": number} for number in range(1, len(rank) + 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.names, 1)]
    passed = (truth.crowd | truth.difficult).astype(int)

    def entries(boxes: GroundTruth | Detections, **columns: NDArray[Any]) -> list[dict[str, Any]]:
        columns |= {"image_id": number_of[boxes.images], "category_id": boxes.classes + 1, "bbox": boxes.boxes}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(("id", *columns), (number, *row), strict=True)) for number, row in enumerate(rows, 1)]

    objects = entries(truth, area=truth.areas, iscrowd=passed)
    results = entries(
        found, area=found.boxes[:, 2:].prod(1), iscrowd=np.zeros(len(found.scores), int), score=found.scores
    )
    return (
        {"images": images, "categories": categories, "annotations": objects},
        {"images": images, "categories": categories, "annotations": results},
    )


def _evaluate(
    truth: dict[str, Any], found: dict[str, Any], backend: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and the IoUs, from one of the tools."""
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how long it takes
        sides = []
        for content in (truth, found):
            side = COCO()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        evaluation = Evaluation(*sides, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[key], np.float64) for key in ("precision", "recall"))
    return precision, recall, np.asarray(evaluation.params.iouThrs, np.float64)
