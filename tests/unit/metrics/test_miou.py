"""mIoU against a hand-worked case, published-rule figures of real labels, torchmetrics, and two processes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from locations import SHARED
from PIL import Image
from ranks import run_ranks
from torchmetrics.classification import MulticlassJaccardIndex

from dcnlab.metrics.miou import MeanIoU, confusion_matrix, iou_per_class, mean_iou, pixel_accuracy

ORACLE = SHARED / "data/eval_oracles/miou_camvid_prevframe"

LABELS = torch.tensor([[0, 0, 1, 255], [1, 1, 2, 2]])
PREDICTIONS = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 2]])


def test_the_hand_worked_confusion_gives_its_iou():
    """A 4x4 confusion matrix with IoU 1/3, 1/2, 1 and NaN."""
    confusion = confusion_matrix(PREDICTIONS, LABELS, 4)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    # class 0: 1 of 2 + 2 - 1; class 1: 2 of 3 + 3 - 2; class 2: 2 of 2; class 3 is in neither
    torch.testing.assert_close(
        iou_per_class(confusion), torch.tensor([1 / 3, 1 / 2, 1, torch.nan]).double(), equal_nan=True, rtol=0, atol=1e-7
    )
    assert float(mean_iou(confusion)) == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert float(pixel_accuracy(confusion)) == pytest.approx(5 / 7)


def test_a_class_that_is_only_predicted_counts_as_zero():
    """A class in neither labels nor predictions is NaN instead."""
    iou = iou_per_class(confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0]), 3))
    assert iou[0] == 0.5
    assert iou[1].isnan()
    assert iou[2] == 0


def test_without_a_counted_pixel_the_mean_is_nan():
    nothing = confusion_matrix(torch.tensor([0]), torch.tensor([255]), 3)
    assert mean_iou(nothing).isnan()
    assert pixel_accuracy(nothing).isnan()


@pytest.fixture(scope="module")
def camvid():
    if not ORACLE.is_dir():
        pytest.skip("../shared/data/eval_oracles is not there")
    expected = json.loads((ORACLE / "expected.json").read_text())
    names = sorted(path.name for path in (ORACLE / "gt").glob("*.png"))
    pairs = [
        tuple(torch.from_numpy(np.array(Image.open(ORACLE / folder / name))) for folder in ("pred", "gt"))
        for name in names
    ]
    return pairs, expected


def test_camvid_labels_give_the_reference_iou(camvid):
    """Confusion, IoU and accuracy equal those kept from another program."""
    pairs, expected = camvid
    metric = MeanIoU(11)
    for prediction, label in pairs:
        metric.update(prediction, label)
    assert metric.total().tolist() == expected["confusion_rows_gt_cols_pred"]
    assert float(metric.compute()) == pytest.approx(100 * expected["mIoU"], abs=1e-6)
    assert metric.per_class().tolist() == pytest.approx([100 * iou for iou in expected["IoU"]], abs=1e-6)
    assert float(metric.accuracy()) == pytest.approx(100 * expected["pixel_accuracy"], abs=1e-6)


@pytest.mark.parametrize("ignore", [255, -1, 0])
def test_torchmetrics_agrees_on_random_labels(ignore):
    """MulticlassJaccardIndex is the oracle, with each kind of ignored label."""
    generator = torch.Generator().manual_seed(5)
    ours = MeanIoU(6, ignore)
    macro, each = (MulticlassJaccardIndex(6, average=average, ignore_index=ignore) for average in ("macro", "none"))
    for side in (7, 30, 11):
        labels = torch.randint(0, 6, (2, side, side), generator=generator)
        predictions = torch.where(
            torch.rand(2, side, side, generator=generator) < 0.6,
            labels,
            torch.randint(0, 6, labels.shape, generator=generator),
        )
        labels[torch.rand(2, side, side, generator=generator) < 0.2] = ignore
        for metric in (ours, macro, each):
            metric.update(predictions, labels)
    assert float(ours.compute()) == pytest.approx(100 * float(macro.compute()), abs=1e-4)
    counted = [at for at in range(6) if at != ignore]
    theirs = 100 * each.compute()
    assert ours.per_class()[counted].tolist() == pytest.approx(theirs[counted].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("predictions", "labels", "words"),
    [
        (torch.tensor([0, 3]), torch.tensor([0, 1]), "prediction 3 is not a class; predictions must lie in 0..2"),
        (torch.tensor([-1, 0]), torch.tensor([0, 1]), "prediction -1 is not a class"),
        (torch.tensor([0, 1]), torch.tensor([0, 7]), "label 7 is not a class; labels must lie in 0..2 or 255"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), r"shape \(2, 3\) for labels of \(2,\)"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), "predictions are torch.float32"),
    ],
)
def test_values_outside_the_classes_are_refused(predictions, labels, words):
    """The error holds the wrong label or prediction."""
    with pytest.raises(ValueError, match=words):
        confusion_matrix(predictions, labels, 3)


def test_any_prediction_is_taken_where_the_label_is_ignored():
    assert confusion_matrix(torch.tensor([99, 1]), torch.tensor([255, 1]), 2).tolist() == [[0, 0], [0, 1]]


def test_uint8_labels_do_not_overflow():
    """Class 200 times 201 classes does not fit a byte."""
    pixels = torch.full((300,), 200, dtype=torch.uint8)
    assert confusion_matrix(pixels, pixels, 201)[200, 200] == 300


def _score_a_share(rank: int, meeting: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    metric = MeanIoU(4)
    labels, predictions = (torch.arange(60) % 3, torch.arange(60) // 2 % 4)
    for at in range(60)[:1] if rank == 0 else range(60)[1:]:  # 1 image of a pixel here, 59 there
        metric.update(predictions[at : at + 1], labels[at : at + 1])
    figures = {
        "miou": float(metric.compute()),
        "each": metric.per_class().tolist(),
        "accuracy": float(metric.accuracy()),
    }
    figures["counted here"] = int(metric.confusion.sum())
    Path(out, f"{rank}.json").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_ranks_with_unequal_shares_give_one_ranks_iou(tmp_path):
    """With 1 and 59 pixels both ranks report the whole set's IoU and keep their own counts."""
    run_ranks(_score_a_share, (os.fspath(tmp_path / "meeting"), os.fspath(tmp_path)), 2)
    labels, predictions = (np.arange(60) % 3, np.arange(60) // 2 % 4)
    sets = [((labels == c) & (predictions == c), (labels == c) | (predictions == c)) for c in range(4)]
    each = [100 * hit.sum() / union.sum() for hit, union in sets]
    for rank, share in enumerate((1, 59)):
        figures = json.loads((tmp_path / f"{rank}.json").read_text())
        assert figures["miou"] == pytest.approx(np.mean(each))
        assert figures["each"] == pytest.approx(each)
        assert figures["accuracy"] == pytest.approx(100 * np.mean(labels == predictions))
        assert figures["counted here"] == share  # what a process has seen itself stays its own
