"""VOC AP against published figures, another tool's run, hand-worked cases, and the protocol written down slowly."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from locations import SHARED

from dcnlab.metrics.voc_ap import voc_ap, voc_metrics

ORACLES = SHARED / "data/eval_oracles"


def truth(objects, classes=("cat",), empty=()):
    """Ground truth of (image, class, bbox[, difficult]), and of images without objects."""
    images = sorted({*(str(image) for image, *_ in objects), *empty})
    return {
        "images": [{"id": image} for image in images],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": [
            {"image_id": str(image), "category_id": classes.index(name) + 1, "bbox": bbox, "difficult": int(any(hard))}
            for image, name, bbox, *hard in objects
        ],
    }


def found(results, classes=("cat",)):
    keys = ("image_id", "category_id", "bbox", "score")
    return [
        dict(zip(keys, (str(image), classes.index(name) + 1, bbox, score), strict=True))
        for image, name, bbox, score in results
    ]


def oracle(name):
    if not (ORACLES / name).is_dir():
        pytest.skip("../shared/data/eval_oracles is not there")
    return ORACLES / name


def inclusive(x1, y1, x2, y2):
    """Continuous x, y, width, height of a box of whole pixels that includes its last ones."""
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def toy_cat(folder, convert):
    objects, results = [], []
    for path in sorted(folder.glob("Annotations/*.xml")):
        for node in ElementTree.parse(path).iter("object"):
            if node.findtext("name") == "cat":
                corners = [float(node.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")]
                objects.append((path.stem, "cat", inclusive(*corners)))
    for path in sorted(folder.glob("detections_class_score_x1y1x2y2/*.txt")):
        for line in path.read_text().splitlines():
            name, score, *corners = line.split()
            if name == "cat":
                results.append((path.stem, "cat", convert(*map(float, corners)), float(score)))
    assert (len(objects), len(results)) == (12, 12)
    return truth(objects, empty=[path.stem for path in folder.glob("Annotations/*.xml")]), found(results)


@pytest.mark.parametrize(("metric", "key"), [("voc07", "AP_11pt"), ("voc", "AP_allpt")])
def test_published_voc_values_are_reproduced(metric, key):
    """11-point and all-point AP at IoU 0.5 and 0.75."""
    folder = oracle("voc_toy_cat")
    published = json.loads((folder / "expected.json").read_text())["published"]
    scores = voc_ap(*toy_cat(folder, inclusive), metric, (0.5, 0.75))
    for iou in (0.5, 0.75):
        assert scores[iou].mean / 100 == pytest.approx(published[str(iou)][key], abs=1e-4)
        assert scores[iou].classes["cat"].ap == scores[iou].mean


def test_another_tools_scores_of_30_classes_are_reproduced():
    """AP of each class equals that of Cartucho's mAP, difficult objects included."""
    folder = oracle("cartucho_map")
    expected = json.loads((folder / "expected.json").read_text())
    objects, results = [], []
    for path in sorted(folder.glob("ground-truth/*.txt")):
        for line in path.read_text().splitlines():
            *words, x1, y1, x2, y2 = line.removesuffix(" difficult").split()
            box = inclusive(*map(float, (x1, y1, x2, y2)))
            objects.append((path.stem, " ".join(words), box, line.endswith(" difficult")))
    classes = tuple(sorted({name for _, name, *_ in objects}))
    for path in sorted(folder.glob("detection-results/*.txt")):
        for line in path.read_text().splitlines():
            name, score, *corners = line.split()
            if name in classes:
                results.append((path.stem, name, inclusive(*map(float, corners)), float(score)))
    score = voc_ap(truth(objects, classes), found(results, classes), "voc", (0.5,))[0.5]
    assert {name: curve.ap for name, curve in score.classes.items()} == pytest.approx(
        expected["AP_percent"], abs=0.00501
    )
    assert score.mean == pytest.approx(expected["independent_check_mAP"], abs=0.0005)


def test_the_hand_worked_detections_give_their_ap():
    """A duplicate is a false positive, and an IoU of exactly 1/2 is a hit."""
    objects = [("a", "cat", [0, 0, 10, 10]), ("a", "cat", [20, 0, 10, 10]), ("b", "cat", [0, 0, 10, 10])]
    results = [
        ("a", "cat", [0, 0, 10, 10], 0.9),  # a hit
        ("a", "cat", [0, 0, 10, 9], 0.8),  # the same object again: false
        ("b", "cat", [0, 0, 10, 5], 0.7),  # IoU exactly 1/2: a hit
        ("b", "cat", [50, 50, 5, 5], 0.6),  # nothing there
    ]
    score = voc_ap(truth(objects), found(results), "voc", (0.5, 0.7))
    curve = score[0.5].classes["cat"]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curve.ap == pytest.approx(100 * (1 / 3 * 1 + 1 / 3 * 2 / 3))
    # at 0.7 only the first is a hit, of three objects
    assert score[0.7].mean == pytest.approx(100 / 3)
    # eleven points: recalls 0, .1, .2, .3 have precision 1; .4, .5, .6 have 2/3; the other four 0
    eleven = voc_ap(truth(objects), found(results), "voc07", (0.5,))[0.5]
    assert eleven.mean == pytest.approx(100 * (4 * 1 + 3 * 2 / 3) / 11)


def test_a_recall_that_is_exactly_a_tenth_counts_for_its_point():
    """Recall 0.3 must not be rounded below the third of the eleven points."""
    objects = [("a", "cat", [20 * n, 0, 10, 10]) for n in range(10)]
    results = [("a", "cat", [20 * n, 0, 10, 10], 0.9 - 0.01 * n) for n in range(3)]
    assert voc_ap(truth(objects), found(results), "voc07_exact", (0.5,))[0.5].mean == pytest.approx(100 * 4 / 11)


def test_a_recall_of_three_fifths_misses_the_evaluators_point():
    """Three of five objects are found: 6 points of the evaluator's eleven, 7 as fractions."""
    objects = [("a", "cat", [20 * n, 0, 10, 10]) for n in range(5)]
    results = [("a", "cat", [20 * n, 0, 10, 10], 0.9 - 0.01 * n) for n in range(3)]
    for metric, points in (("voc07", 6), ("voc07_exact", 7)):
        assert voc_ap(truth(objects), found(results), metric, (0.5,))[0.5].mean == pytest.approx(100 * points / 11)


def test_detections_on_difficult_objects_are_ignored():
    """Neither a hit nor a false positive, even when it is detected twice."""
    objects = [("a", "cat", [0, 0, 10, 10], True), ("a", "cat", [20, 0, 10, 10])]
    results = [
        ("a", "cat", [0, 0, 10, 10], 0.9),
        ("a", "cat", [0, 0, 10, 9], 0.8),
        ("a", "cat", [20, 0, 10, 10], 0.7),
    ]
    score = voc_ap(truth(objects), found(results), "voc", (0.5,))[0.5]
    assert score.mean == 100
    assert score.classes["cat"].objects == 1


def test_a_detection_matches_its_best_box_even_if_taken():
    """VOC counts it as a false positive, though a second free object overlaps by half."""
    # The second detection overlaps both objects by half and more, the first one most: a false positive in VOC.
    objects = [("a", "cat", [0, 0, 10, 10]), ("a", "cat", [4, 0, 10, 10])]
    results = [("a", "cat", [0, 0, 10, 10], 0.9), ("a", "cat", [1, 0, 10, 10], 0.8)]
    assert voc_ap(truth(objects), found(results), "voc", (0.5,))[0.5].mean == pytest.approx(50)


def test_equal_scores_keep_the_file_s_order():
    """The order decides which of two tied detections counts first."""
    objects = [("a", "cat", [0, 0, 10, 10])]
    right, wrong = ("a", "cat", [0, 0, 10, 10], 0.5), ("a", "cat", [50, 0, 10, 10], 0.5)
    assert voc_ap(truth(objects), found([right, wrong]), "voc", (0.5,))[0.5].mean == 100
    assert voc_ap(truth(objects), found([wrong, right]), "voc", (0.5,))[0.5].mean == 50


def test_a_class_without_objects_is_nan_and_left_out_of_the_mean():
    """A class with only difficult objects has nothing to find, either."""
    classes = ("cat", "dog", "cow")
    objects = [("a", "cat", [0, 0, 10, 10]), ("a", "dog", [0, 0, 10, 10], True), ("a", "cow", [0, 0, 9, 9])]
    results = [("a", "cat", [0, 0, 10, 10], 0.9), ("a", "dog", [50, 0, 10, 10], 0.9)]
    for metric in ("voc07", "voc"):
        flat = voc_metrics(voc_ap(truth(objects, classes), found(results, classes), metric))
        assert flat == pytest.approx(
            {
                **{"ap50": 50, "ap70": 50, "ap50/cat": 100, "ap50/dog": float("nan"), "ap50/cow": 0},
                **{"ap70/cat": 100, "ap70/dog": float("nan"), "ap70/cow": 0},
            },
            nan_ok=True,
        )


def test_no_detection_is_0_and_no_object_is_nan():
    """An AP of no object is not defined, and detections do not change that."""
    empty = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    something = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}
    assert voc_ap(truth([("a", "cat", [0, 0, 10, 10])]), [], "voc07")[0.5].mean == 0
    assert np.isnan(voc_ap(empty, [], "voc")[0.5].mean)
    assert np.isnan(voc_ap(empty, [something], "voc")[0.5].mean)


def slow_voc_ap(gt, results, iou, metric):
    """VOCevaldet.m as its documentation tells it, in whole pixels that count from 1 and include the last."""

    def corners(bbox):
        return bbox[0] + 1, bbox[1] + 1, bbox[0] + bbox[2], bbox[1] + bbox[3]

    aps = {}
    for category in gt["categories"]:
        objects = {image["id"]: [] for image in gt["images"]}
        for entry in gt["annotations"]:
            if entry["category_id"] == category["id"]:
                objects[entry["image_id"]].append({"box": corners(entry["bbox"]), "hard": entry["difficult"], "det": 0})
        to_find = sum(not entry["hard"] for each in objects.values() for entry in each)
        mine = [entry for entry in results if entry["category_id"] == category["id"]]
        tp, fp = [], []
        for entry in sorted(mine, key=lambda entry: -entry["score"]):
            best, best_iou = None, -np.inf
            x1, y1, x2, y2 = corners(entry["bbox"])
            for other in objects[entry["image_id"]]:
                X1, Y1, X2, Y2 = other["box"]
                w, h = min(x2, X2) - max(x1, X1) + 1, min(y2, Y2) - max(y1, Y1) + 1
                if w > 0 and h > 0:
                    union = (x2 - x1 + 1) * (y2 - y1 + 1) + (X2 - X1 + 1) * (Y2 - Y1 + 1) - w * h
                    if w * h / union > best_iou:
                        best, best_iou = other, w * h / union
            if best_iou < iou:
                tp, fp = [*tp, 0], [*fp, 1]
            elif not best["hard"]:
                tp, fp = [*tp, 1 - best["det"]], [*fp, best["det"]]
                best["det"] = 1
            else:
                tp, fp = [*tp, 0], [*fp, 0]
        if not to_find:
            continue
        tp, fp = np.cumsum(tp), np.cumsum(fp)
        recall, precision = tp / to_find, tp / np.maximum(tp + fp, 1)
        if metric == "voc07":
            points = np.arange(0.0, 1.1, 0.1)
            ap = sum(max(precision[recall >= point], default=0) for point in points) / 11
        else:
            r, p = [0, *recall, 1], [0, *precision, 0]
            for at in range(len(p) - 2, -1, -1):
                p[at] = max(p[at], p[at + 1])
            ap = sum((r[at] - r[at - 1]) * p[at] for at in range(1, len(r)))
        aps[category["name"]] = 100 * ap
    return aps


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("metric", ["voc07", "voc"])
def test_voc_ap_equals_a_slow_transcription(seed, metric):
    """Random boxes with many tied scores and difficult objects, at IoU 0.5 and 0.7."""
    random = np.random.default_rng(seed)
    classes = ("cat", "dog", "cow")

    def box():
        return [*random.integers(0, 30, 2).tolist(), *random.integers(4, 30, 2).tolist()]

    objects = [(random.integers(12), str(random.choice(classes)), box(), random.random() < 0.2) for _ in range(120)]
    results = []
    for image, name, bbox, _ in objects:
        for _ in range(random.integers(0, 4)):
            near = (np.array(bbox) + random.integers(-3, 4, 4)).clip(0).tolist()
            results.append((image, name, near, round(float(random.random()), 1)))  # many equal scores
        results.append((image, str(random.choice(classes)), box(), float(random.random())))
    gt, dets = truth(objects, classes), found(results, classes)
    for iou in (0.5, 0.7):
        score = voc_ap(gt, dets, metric, (iou,))[iou]
        slow = slow_voc_ap(gt, dets, iou, metric)
        assert {name: curve.ap for name, curve in score.classes.items()} == pytest.approx(slow, abs=1e-9)
        assert score.mean == pytest.approx(np.mean(list(slow.values())), abs=1e-9)
        assert 5 < score.mean < 95


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="'voc12'; choose from: voc07, voc07_exact, voc"):
        voc_ap(truth([("a", "cat", [0, 0, 1, 1])]), [], "voc12")
