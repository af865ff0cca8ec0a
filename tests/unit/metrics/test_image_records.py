"""Records of test images: resampled test sets against the official evaluators on repeated images."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_coco_ap import TWELVE, direct

from dcnlab.io.errors import DataError
from dcnlab.metrics import image_records
from dcnlab.metrics.boxes import Detections, GroundTruth
from dcnlab.metrics.classification_record import ClassificationRecord
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.metrics.detection_matches import detection_record
from dcnlab.metrics.miou import MeanIoU, confusion_matrix
from dcnlab.metrics.segmentation_record import SegmentationRecord, sums_of
from dcnlab.metrics.voc_ap import voc_ap, voc_metrics


def scenes(images=12, classes=3, seed=0, most=8):
    """Ground truth and detections of random scenes: objects found twice or missed, crowds, difficult ones."""
    rng = np.random.default_rng(seed)
    objects = rng.integers(1, most, images)
    owner = np.repeat(np.arange(images), objects)
    total = len(owner)
    corners, sides = rng.uniform(0, 300, (total, 2)), rng.choice([12.0, 60.0, 150.0], (total, 2))
    boxes, labels = np.concatenate([corners, sides], 1), rng.integers(0, classes, total)
    crowd, difficult = rng.random((2, total)) < 0.1
    names = [f"class {n}" for n in range(classes)]
    truth = GroundTruth(
        list(range(images)), list(range(classes)), names, owner, labels, boxes, sides.prod(1), crowd, difficult
    )
    copies = rng.integers(0, 4, total)
    moved = np.repeat(boxes, copies, 0) + rng.normal(0, 4, (copies.sum(), 4))
    false = np.concatenate([rng.uniform(0, 300, (3 * images, 2)), rng.uniform(8, 120, (3 * images, 2))], 1)
    found = Detections(
        np.concatenate([np.repeat(owner, copies), np.repeat(np.arange(images), 3)]),
        np.concatenate([np.repeat(labels, copies), rng.integers(0, classes, 3 * images)]),
        np.concatenate([moved, false]).clip(1, None),
        np.zeros(copies.sum() + 3 * images),
    )
    for image in range(images):  # equal scores in several images, not in one
        mine = np.flatnonzero(found.images == image)
        found.scores[mine] = rng.choice(np.arange(1, 500), len(mine), replace=False) / 500
    order = np.argsort(found.images, kind="stable")
    return truth, Detections(*(getattr(found, name)[order] for name in ("images", "classes", "boxes", "scores")))


def repeated(truth, detections, weights):
    """The test set in which image i stands weights[i] times, its copies after each other."""
    sources = np.repeat(np.arange(len(weights)), weights)
    rows, places = [[np.flatnonzero(side.images == image) for image in sources] for side in (truth, detections)], []
    for side in rows:
        places.append(np.repeat(np.arange(len(sources)), [len(part) for part in side]))
    objects, found = (np.concatenate([np.empty(0, np.int64), *side]) for side in rows)
    names = ("classes", "boxes", "areas", "crowd", "difficult")
    whole = replace(
        truth,
        image_ids=list(range(len(sources))),
        images=places[0],
        **{name: getattr(truth, name)[objects] for name in names},
    )
    rest = (getattr(detections, name)[found] for name in ("classes", "boxes", "scores"))
    return whole, Detections(places[1], *rest)


def in_coco_form(truth, detections):
    """Both as pycocotools takes them."""
    ignored = (truth.crowd | truth.difficult).astype(int).tolist()
    rows = zip(
        truth.images.tolist(), truth.classes.tolist(), truth.boxes.tolist(), truth.areas.tolist(), ignored, strict=True
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    gt = {
        "images": [{"id": image} for image in truth.image_ids],
        "categories": [{"id": n, "name": name} for n, name in enumerate(truth.names)],
        "annotations": [dict(zip(keys, (n, *row), strict=True)) for n, row in enumerate(rows, 1)],
    }
    columns = (detections.images, detections.classes, detections.boxes, detections.scores)
    keys = ("image_id", "category_id", "bbox", "score")
    return gt, [dict(zip(keys, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc07_exact", "voc"])
def test_detections_of_repeated_images_are_scored_officially(protocol):
    """Unit weights give the run's scores; whole weights those of a test set whose images really are repeated."""
    truth, detections = scenes()
    record = detection_record(truth, detections, protocol)
    rng = np.random.default_rng(1)
    weights = np.concatenate([np.ones((1, 12), int), rng.integers(0, 4, (4, 12)), np.eye(1, 12, dtype=int)])
    for number, row in enumerate(weights):
        pair = repeated(truth, detections, row)
        expected = coco_ap(*pair) if protocol == "coco" else voc_metrics(voc_ap(*pair, protocol))
        scored = {metric: record.scores(metric, weights)[number] for metric in record.metrics}
        assert scored == pytest.approx({name: expected[name] for name in scored}, abs=1e-9, nan_ok=True)
        assert number or set(scored) == {name for name, value in expected.items() if value == value}


def test_coco_scores_of_repeated_images_equal_pycocotools():
    """The twelve numbers of pycocotools itself, on images that stand several times."""
    truth, detections = scenes(seed=5)
    weights = np.random.default_rng(2).integers(0, 4, (2, 12))
    record = detection_record(truth, detections, "coco")
    for number, row in enumerate(weights):
        official = direct(*in_coco_form(*repeated(truth, detections, row)))
        scored = {metric: record.scores(metric, weights)[number] / 100 for metric in (*TWELVE, "ap70")}
        assert scored == pytest.approx(official, abs=1e-11)


def test_many_detections_of_an_image_are_cut_as_by_coco():
    """COCO takes the surest 100 of an image and class."""
    truth, detections = scenes(images=2, classes=1, most=80, seed=3)
    many = Detections(*(np.repeat(getattr(detections, n), 3, 0) for n in ("images", "classes", "boxes", "scores")))
    many = replace(many, scores=many.scores - np.arange(len(many.scores)) * 1e-7)
    record = detection_record(truth, many, "coco")
    assert np.bincount(record.image).max() == 100
    expected = coco_ap(truth, many)
    scored = {metric: record.scores(metric, np.ones((1, 2), int))[0] for metric in record.metrics}
    assert scored == pytest.approx({name: expected[name] for name in scored}, abs=1e-9)


def test_segmentation_of_repeated_images_is_scored_officially():
    """miou and each class's IoU equal those of MeanIoU, to which each image is given as often as it was drawn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (6, 8, 8), generator=generator)
    labels[0] = 3
    labels[1, :4] = 255
    predictions = torch.randint(0, 3, (6, 8, 8), generator=generator)
    record = segmentation_record(predictions, labels, 5)
    assert record.metrics == ("miou", "iou/a", "iou/b", "iou/c", "iou/d")  # e is neither labelled nor predicted
    weights = np.array([[1] * 6, [0, 2, 1, 0, 3, 0], [2, 0, 0, 0, 0, 1]])
    for number, row in enumerate(weights):
        metric, chosen = MeanIoU(5), np.repeat(np.arange(6), row)
        metric.update(predictions[chosen], labels[chosen])
        assert record.scores("miou", weights)[number] == pytest.approx(metric.compute().item(), abs=1e-9)
        each = [record.scores(f"iou/{name}", weights)[number] for name in "abcde"]
        assert each == pytest.approx(metric.per_class().tolist(), abs=1e-9, nan_ok=True)


def segmentation_record(predictions, labels, classes):
    """The record of some images."""
    pairs = enumerate(zip(predictions, labels, strict=True))
    by_image = {n: sums_of(confusion_matrix(*pair, classes).numpy()) for n, pair in pairs}
    return SegmentationRecord.of("abcde"[:classes], by_image)


def test_accuracy_of_repeated_images_is_the_fraction_that_is_right():
    """By hand: images 1 and 3 are right; an empty test set has no accuracy."""
    record = ClassificationRecord(("a", "b", "c"), ("top1",), np.array([[True, False, True]]))
    weights = np.array([[1, 1, 1], [2, 3, 0], [0, 0, 0]])
    assert record.scores("top1", weights) == pytest.approx([200 / 3, 40, np.nan], nan_ok=True)


def test_records_scored_together_have_the_scores_of_each():
    """By hand: the first image twice, the second once, the third never."""
    records = [
        ClassificationRecord(("a", "b", "c"), ("top1", "top5"), np.array([[first, True, False], [True] * 3]))
        for first in (True, False)
    ]
    scores = ClassificationRecord.scores_of(records, "top1", np.array([[2, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert scores == pytest.approx(np.array([[100, 200 / 3, np.nan], [100 / 3, 100 / 3, np.nan]]), nan_ok=True)


def test_two_thousand_resamples_of_100_images_take_seconds():
    """COCO's mean over ten IoUs and five classes."""
    truth, detections = scenes(images=100, classes=5)
    record = detection_record(truth, detections, "coco")
    weights = np.random.default_rng(0).multinomial(100, np.full(100, 0.01), 2000)
    start = time.process_time()
    scored = record.scores("ap", weights)
    assert time.process_time() - start < 60
    assert np.isfinite(scored).all()
    assert scored[7] == pytest.approx(record.scores("ap", weights[7:8])[0], abs=1e-12)


RECORDS = {
    "classification": ClassificationRecord(("a", "é b"), ("top1", "top5"), np.array([[True, False], [True, True]])),
    "segmentation": segmentation_record(torch.zeros(3, 2, 2).long(), torch.ones(3, 2, 2).long(), 2),
    "coco": detection_record(*scenes(3), "coco"),
    "voc": detection_record(*scenes(3), "voc"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_read_as_it_was_written(kind, tmp_path):
    """Images, metrics and scores survive the file, which is damaged nowhere without a DataError."""
    record, path = RECORDS[kind], tmp_path / "test_images.npz"
    image_records.write(path, record)
    again = image_records.read(path)
    assert type(again) is type(record)
    assert (again.images, again.metrics, again.header()) == (record.images, record.metrics, record.header())
    for name, values in record.columns().items():
        assert np.array_equal(again.columns()[name], values)
        assert again.columns()[name].dtype == values.dtype
    content = path.read_bytes()
    for end in (0, 1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"test_images\.npz"):
            image_records.read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("image", np.array([7] * 100)),
        ("score", None),
        ("state", np.zeros((4, 1, 2), np.uint8)),
        ("label", np.array([0.5])),
        ("image", np.array([{}], object)),
    ],
)
def test_a_record_with_a_wrong_array_is_refused(name, values, tmp_path):
    """One line that names the file; pickled objects are not loaded."""
    path = tmp_path / "test_images.npz"
    image_records.write(path, RECORDS["voc"])
    with np.load(path) as arrays:
        columns = {**arrays, name: values}
    np.savez(path, **{key: value for key, value in columns.items() if value is not None})
    with pytest.raises(DataError, match=r"test_images\.npz") as caught:
        image_records.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
def test_pooled_folds_score_as_one_test_set(protocol):
    """Two folds of a test set together have the scores of the whole; an image in both is refused."""
    truth, detections = scenes()
    whole = detection_record(truth, detections, protocol)
    folds = []
    for images in (range(5), range(5, 12)):
        row = np.isin(np.arange(12), images).astype(int)
        fold = detection_record(*repeated(truth, detections, row), protocol)
        folds.append(replace(fold, images=tuple(str(image) for image in images)))
    pooled, weights = image_records.pool(folds), np.random.default_rng(0).integers(0, 3, (3, 12))
    assert pooled.images == whole.images
    for metric in whole.metrics:
        assert pooled.scores(metric, weights) == pytest.approx(whole.scores(metric, weights), abs=1e-9, nan_ok=True)
    with pytest.raises(DataError, match="test image 0 is in two folds"):
        image_records.pool([folds[0], folds[1], folds[0]])
    with pytest.raises(DataError, match="different classes"):
        image_records.pool([folds[0], replace(folds[1], classes=("a", "b", "c"))])


def test_pooled_folds_of_the_other_tasks_keep_each_image():
    """Right or wrong, and pixels, stay with their image."""
    first, second = (replace(RECORDS["classification"], images=names) for names in (("a", "b"), ("c", "d")))
    pooled = image_records.pool([first, second])
    assert pooled.scores("top1", np.eye(4, dtype=int)).tolist() == [100, 0, 100, 0]
    labels, predictions = torch.randint(0, 2, (2, 4, 3, 3), generator=torch.Generator().manual_seed(1))
    whole = segmentation_record(predictions, labels, 2)
    parts = [segmentation_record(predictions[part], labels[part], 2) for part in (slice(0, 1), slice(1, 4))]
    parts = [
        replace(part, images=names) for part, names in zip(parts, (whole.images[:1], whole.images[1:]), strict=True)
    ]
    weights = np.random.default_rng(0).integers(1, 4, (3, 4))
    assert np.array_equal(image_records.pool(parts).scores("miou", weights), whole.scores("miou", weights))
