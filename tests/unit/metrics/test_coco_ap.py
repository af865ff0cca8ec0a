"""COCO AP against the official figures, and one tool against the other where crowds are."""

import json

import numpy as np
import pytest
from locations import SHARED

from dcnlab.metrics.coco_ap import BACKENDS, coco_ap

DATA = SHARED / "data"

TWELVE = {
    **{"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl"},
    **{"ar1": "AR1", "ar10": "AR10", "ar100": "AR100", "ar_small": "ARs", "ar_medium": "ARm", "ar_large": "ARl"},
}

GT = {
    "images": [{"id": 7}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 100], "area": 10_000, "iscrowd": 0}],
}


def read(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"../shared/data/{name} is not there")
    return json.loads(path.read_text())


@pytest.mark.parametrize("backend", BACKENDS)
def test_official_detections_give_the_published_metrics(backend, capsys):
    """To 1e-6 of the published values and 1e-12 of pycocotools'."""
    gt, dets, expected = (
        read(f"eval_oracles/coco_bbox100/{name}.json") for name in ("instances_gt", "detections", "expected")
    )
    scores = coco_ap(gt, dets, backend)
    for ours, theirs in TWELVE.items():
        assert scores[ours] / 100 == pytest.approx(expected["published"][theirs], abs=1e-6)
        assert scores[ours] / 100 == pytest.approx(expected["pycocotools_check"][theirs], abs=1e-12)
    each = {key[3:]: value / 100 for key, value in scores.items() if key.startswith("ap/") and not np.isnan(value)}
    assert each == pytest.approx(expected["per_class_AP_pycocotools"], abs=1e-12)
    assert capsys.readouterr().out == ""


def direct(gt, dets):
    """The twelve numbers and AP70 by pycocotools as its own documentation calls it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    side = COCO()
    side.dataset = gt
    side.createIndex()
    evaluation = COCOeval(side, side.loadRes(dets), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap70 = evaluation.eval["precision"][4, :, :, 0, 2]
    return {**dict(zip(TWELVE, evaluation.stats, strict=True)), "ap70": ap70[ap70 > -1].mean()}


def test_both_backends_equal_pycocotools_on_crowds():
    """Random detections on COCO's crowd boxes, with tied scores, give equal AP to 1e-9."""
    gt = read("coco_real/annotations/instances_val2017.json")
    assert sum(entry["iscrowd"] for entry in gt["annotations"]) > 3
    random = np.random.default_rng(3)
    dets = []
    for entry in gt["annotations"]:
        for _ in range(random.integers(1, 8) if entry["iscrowd"] else random.integers(0, 3)):
            box = np.array(entry["bbox"])
            if entry["iscrowd"]:  # pieces of the crowd
                box = np.concatenate([box[:2] + random.random(2) * box[2:] / 2, box[2:] * random.random(2) / 2])
            else:
                box = (box + random.normal(0, 0.08, 4) * box[[2, 3, 2, 3]]).clip(0)
            score = round(float(random.random()), 2)  # some are equal
            dets.append(
                {**{key: entry[key] for key in ("image_id", "category_id")}, "bbox": box.tolist(), "score": score}
            )
    order = random.permutation(len(dets))
    dets = [dets[at] for at in order]
    faster, slow = (coco_ap(gt, dets, backend) for backend in BACKENDS)
    assert faster == pytest.approx(slow, abs=1e-9, nan_ok=True)
    without = coco_ap({**gt, "annotations": [e for e in gt["annotations"] if not e["iscrowd"]]}, dets)
    assert without["ap"] < faster["ap"] - 0.1  # so that the crowds matter here
    expected = direct(gt, [dict(entry) for entry in dets])
    assert {key: faster[key] / 100 for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_is_0_and_no_object_is_nan(backend, capsys):
    """For AP and recall over all, by class and by size."""
    nothing = coco_ap(GT, [], backend)
    assert nothing["ap"] == nothing["ar100"] == nothing["ap/cat"] == nothing["ap_large"] == 0
    assert np.isnan(nothing["ap/dog"])
    assert np.isnan(nothing["ap_small"])
    right = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 100], "score": 0.5}
    assert coco_ap(GT, [right], backend)["ap"] == pytest.approx(100)
    empty = {**GT, "annotations": []}
    for dets in ([], [right]):
        assert all(np.isnan(value) for value in coco_ap(empty, dets, backend).values())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_annotation_with_id_0_counts(backend):
    """pycocotools takes the id 0 for no match; a perfect detection must give AP 100."""
    gt = {**GT, "annotations": [{**GT["annotations"][0], "id": 0}]}
    right = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 100], "score": 0.5}
    assert coco_ap(gt, [right], backend)["ap"] == pytest.approx(100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_detections_on_difficult_objects_are_ignored(backend):
    """Neither a hit nor a false positive: AP stays 100."""
    hard = {**GT["annotations"][0], "bbox": [200, 200, 50, 50], "area": 2500, "difficult": 1}
    gt = {**GT, "annotations": [*GT["annotations"], hard]}
    dets = [
        {"image_id": 7, "category_id": 3, "bbox": bbox, "score": score}
        for bbox, score in (([200, 200, 50, 50], 0.9), ([0, 0, 100, 100], 0.8))
    ]
    assert coco_ap(gt, dets, backend)["ap"] == pytest.approx(100)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'fast'; choose from: faster, pycocotools"):
        coco_ap(GT, [], "fast")
