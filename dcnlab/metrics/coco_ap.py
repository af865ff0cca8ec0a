"""Average precision and recall by COCO's rules, from faster-coco-eval or pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.boxes import AnnotatedImages, Detections, GroundTruth, arrays

BACKENDS = ("faster", "pycocotools")
_SIZES = ("small", "medium", "large")
_IOUS = np.linspace(0.5, 0.95, 10)


def coco_ap(
    ground_truth: GroundTruth | AnnotatedImages | Mapping[str, Any],
    detections: Detections | Sequence[Mapping[str, Any]],
    backend: str = "faster",
) -> dict[str, float]:
    """Score detections by COCO's rules: at most 100 an image and class, IoU 0.50 to 0.95 in steps of 0.05.

    Crowds and VOC's difficult objects are ignored by COCO's rule for crowds. A detection counts neither way if it
    matches no other object and the fraction of its area inside the crowd reaches the IoU threshold.

    Args:
        ground_truth: arrays, or COCO's form, see `GroundTruth.of`.
        detections: arrays, or COCO's result form.
        backend: faster, which is faster-coco-eval, or pycocotools; their scores are equal.

    Returns:
        Percent: the twelve numbers ap, ap50, ap75, ap_small, ap_medium, ap_large, ar1, ar10, ar100, ar_small, ar_medium
        and ar_large, further ap70, and ap/CLASS. 0 where nothing is found, nan where there is nothing to find
        (pycocotools' -1).

    Raises:
        ValueError: the backend is unknown, or the boxes are not in COCO's form; one line.
    """
    if backend not in BACKENDS:
        raise ValueError(f"the backend of COCO AP is {backend!r}; choose from: {', '.join(BACKENDS)}")
    truth, detections = arrays(ground_truth, detections)
    precision, recall = _evaluate(truth, detections, backend)
    at = {percent: int(np.argmin(np.abs(100 * _IOUS - percent))) for percent in (50, 70, 75)}
    scores = {"ap": _mean(precision[:, :, :, 0, 2])}
    scores |= {f"ap{percent}": _mean(precision[at[percent], :, :, 0, 2]) for percent in (50, 75)}
    scores |= {f"ap_{size}": _mean(precision[:, :, :, n, 2]) for n, size in enumerate(_SIZES, 1)}
    scores |= {f"ar{most}": _mean(recall[:, :, 0, n]) for n, most in enumerate((1, 10, 100))}
    scores |= {f"ar_{size}": _mean(recall[:, :, n, 2]) for n, size in enumerate(_SIZES, 1)}
    scores["ap70"] = _mean(precision[at[70], :, :, 0, 2])
    return scores | {f"ap/{name}": _mean(precision[:, :, n, 0, 2]) for n, name in enumerate(truth.names)}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else float("nan")


def _evaluate(
    truth: GroundTruth, detections: Detections, backend: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (IoU, recall, class, size, most detections) and recall, the same without its second axis.

    The tools read dictionaries, so they score one class at a time: only the dictionaries of one class exist at once.
    """
    order = sorted(range(len(truth.image_ids)), key=lambda at: (str(type(truth.image_ids[at])), truth.image_ids[at]))
    number_of = np.empty(len(order), np.int64)  # as the tools order the data set's ids, which decides equal scores
    number_of[order] = np.arange(1, len(order) + 1)
    ignored = (truth.crowd | truth.difficult).astype(int)
    objects = {"area": truth.areas, "iscrowd": ignored}
    results = {"area": detections.boxes[:, 2:].prod(1), "iscrowd": np.zeros_like(detections.images)}
    results["score"] = detections.scores
    precision = np.full((len(_IOUS), 101, len(truth.names), 1 + len(_SIZES), 3), -1.0)
    recall = np.full((len(_IOUS), *precision.shape[2:]), -1.0)
    for at, (of_truth, of_detections) in enumerate(
        zip(_by_class(truth, len(truth.names)), _by_class(detections, len(truth.names)), strict=True)
    ):
        sides = (
            _entries(truth, of_truth, number_of, objects),
            _entries(detections, of_detections, number_of, results),
        )
        if any(sides):
            precision[:, :, at], recall[:, at] = _evaluate_class(*sides, backend)
    return precision, recall


def _by_class(boxes: GroundTruth | Detections, classes: int) -> list[NDArray[np.intp]]:
    """Indices of the boxes of each class, in their order."""
    order = np.argsort(boxes.classes, kind="stable")
    return np.split(order, np.searchsorted(boxes.classes[order], np.arange(1, classes)))


def _entries(
    boxes: GroundTruth | Detections,
    chosen: NDArray[np.intp],
    number_of: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
) -> list[dict[str, Any]]:
    """Write some boxes as annotations of category 1; ids count from 1, because 0 means unmatched."""
    columns = {name: values[chosen] for name, values in columns.items()}
    columns |= {"image_id": number_of[boxes.images[chosen]], "bbox": boxes.boxes[chosen]}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(("id", "category_id", *columns), (n, 1, *row), strict=True)) for n, row in enumerate(rows, 1)]


def _evaluate_class(
    objects: list[dict[str, Any]], results: list[dict[str, Any]], backend: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (IoU, recall, size, most detections) and recall of one class, from one of the tools."""
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    images = [{"id": number} for number in sorted({entry["image_id"] for entry in (*objects, *results)})]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints how long it takes
        sides = []
        for entries in (objects, results):
            side = COCO()
            side.dataset = {"images": images, "categories": [{"id": 1, "name": "one"}], "annotations": entries}
            side.createIndex()
            sides.append(side)
        evaluation = Evaluation(*sides, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    assert np.array_equal(evaluation.params.iouThrs, _IOUS)
    precision, recall = (np.asarray(evaluation.eval[key], np.float64) for key in ("precision", "recall"))
    return precision[:, :, 0], recall[:, 0]
