"""`dcnlab score` on predictions with known figures, and on what users get wrong."""

import json
import shutil

import numpy as np
import pytest
from command_line import dcnlab
from locations import SHARED
from PIL import Image

from dcnlab import score
from dcnlab.io.errors import ConfigError

ORACLES = SHARED / "data/eval_oracles"


@pytest.fixture
def folders(tmp_path):
    """Predictions and labels of two classes, two images of 2 pixels; image b lies in a sub-folder."""
    write(tmp_path / "pred/a.png", [[0, 1]])
    write(tmp_path / "label/a.png", [[0, 0]])
    write(tmp_path / "pred/town/b.png", [[1, 1]])
    write(tmp_path / "label/town/b.png", [[1, 255]])
    return tmp_path / "pred", tmp_path / "label"


def write(path, pixels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(pixels, np.uint8))
    if palette:
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(path)


def oracle(name):
    if not (ORACLES / name).is_dir():
        pytest.skip("../shared/data/eval_oracles is not there")
    return ORACLES / name


def test_camvid_scores_equal_the_kept_oracle():
    """`dcnlab score segmentation` on real labels gives the oracle's IoU to 1e-8."""
    folder = oracle("miou_camvid_prevframe")
    options = ["--predictions", folder / "pred", "--labels", folder / "gt", "--classes", 11, "--ignore", 255]
    done = dcnlab("score", "segmentation", *options, "--format", "json")
    assert done.returncode == 0, done.stderr
    scores, expected = json.loads(done.stdout), json.loads((folder / "expected.json").read_text())
    assert scores["miou"] / 100 == pytest.approx(expected["mIoU"], abs=1e-8)
    assert scores["pixel_accuracy"] / 100 == pytest.approx(expected["pixel_accuracy"], abs=1e-8)
    each = [scores[f"iou/{at}"] / 100 for at in range(11)]
    assert each == pytest.approx(expected["IoU"], abs=1e-8)
    assert len(scores) == 13


def test_segmentation_by_hand(folders):
    # class 0: 1 hit, 2 labelled, 1 predicted: 1/2; class 1: 1 hit, 1 labelled, 2 predicted where labels count: 1/2
    assert score.segmentation(*folders, classes=3) == pytest.approx(
        {"miou": 50, "pixel_accuracy": 200 / 3, "iou/0": 50, "iou/1": 50, "iou/2": float("nan")}, nan_ok=True
    )


def test_palette_and_16_bit_predictions_are_read_as_values(folders):
    """A palette image counts by its indices, not its colours, and 16-bit labels by value."""
    predictions, labels = folders
    before = score.segmentation(*folders, classes=3)
    write(predictions / "a.png", [[0, 1]], palette=True)
    Image.fromarray(np.array([[1, 255]], np.uint16)).save(labels / "town/b.png")
    assert Image.open(predictions / "a.png").mode == "P"
    assert score.segmentation(*folders, classes=3) == pytest.approx(before, nan_ok=True)


def test_segmentation_names_its_classes_and_shows_two_decimals(folders, tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    scores = score.segmentation(*folders, classes=3, names=tmp_path / "classes.txt")
    text = score.render(scores, "text").splitlines()
    assert ["miou", "50.00"] in [line.split() for line in text]
    assert ["pixel_accuracy", "66.67"] in [line.split() for line in text]
    assert ["sky", "-"] in [line.split() for line in text]
    assert "| car     |     50.00 |" in score.render(scores, "markdown")
    assert json.loads(score.render(scores, "json"))["iou/sky"] is None


def _missing(predictions, labels):
    (predictions / "town/b.png").unlink()


def _left_over(predictions, labels):
    shutil.copy(predictions / "a.png", predictions / "a_pred.png")


def _small(predictions, labels):
    write(predictions / "a.png", [[0]])


def _prediction_outside(predictions, labels):
    write(predictions / "town/b.png", [[7, 1]])


def _label_outside(predictions, labels):
    write(labels / "town/b.png", [[5, 1]])


def _colours(predictions, labels):
    Image.new("RGB", (2, 1)).save(predictions / "a.png")


def _broken(predictions, labels):
    (labels / "a.png").write_bytes(b"no picture")


def _empty(predictions, labels):
    shutil.rmtree(predictions)
    predictions.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "label/town/b.png of .*label has no file of its name in .*pred$"),
        (_left_over, "pred/a_pred.png of .*pred has no file of its name in .*label$"),
        (_small, "pred/a.png is 1x1 pixels, its label .*label/a.png is 2x1"),
        (_prediction_outside, "pred/town/b.png: prediction 7 is not a class; predictions must lie in 0..1"),
        (_label_outside, "label/town/b.png: label 5 is not a class; labels must lie in 0..1 or 255"),
        (_colours, "pred/a.png is a picture of mode RGB"),
        (_broken, "label/a.png cannot be read"),
        (_empty, "--predictions .*pred holds no PNG"),
    ],
)
def test_segmentation_names_the_file_that_is_wrong(folders, spoil, words):
    spoil(*folders)
    with pytest.raises(ConfigError, match=words) as error:
        score.segmentation(*folders, classes=2)
    assert "\n" not in str(error.value)


def test_a_wrong_value_is_exit_status_2_and_one_line(folders):
    done = dcnlab("score", "segmentation", "--predictions", folders[0], "--labels", folders[1], "--classes", 1)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pred/a.png: prediction 1 is not a class" in done.stderr


@pytest.mark.parametrize(
    ("names", "words"), [("road\n", "has 1 names, --classes is 2"), ("road\nroad\n", "has 'road' twice")]
)
def test_class_names_that_do_not_fit_are_refused(folders, tmp_path, names, words):
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(ConfigError, match=words):
        score.segmentation(*folders, classes=2, names=tmp_path / "classes.txt")


def test_a_mean_over_fewer_classes_is_noted_in_every_format(folders, capsys):
    """The note names the class that is in neither labels nor predictions."""
    predictions, labels = folders
    write(predictions / "a.png", [[0, 0]])
    write(labels / "a.png", [[0, 255]])
    write(predictions / "town/b.png", [[0, 0]])
    write(labels / "town/b.png", [[0, 255]])
    scores = score.segmentation(predictions, labels, classes=2)
    said = "Means are over 1 of 2 classes; in neither labels nor predictions: 1."
    for form in ("text", "markdown"):
        assert said in score.render(scores, form).splitlines()
    assert json.loads(score.render(scores, "json"))["mean_over"] == {"classes": ["0"], "left_out": ["1"]}
    err = dcnlab("score", "segmentation", "--predictions", predictions, "--labels", labels, "--classes", 2).stderr
    assert err.startswith(f"warning: next to 0 the only value in {labels} is 255, which --ignore leaves out")
    assert err.count("\n") == 1
    # A class that is predicted and not labelled counts, at 0.
    write(predictions / "a.png", [[1, 0]])
    scores = score.segmentation(predictions, labels, classes=2)
    assert (scores["miou"], scores["iou/1"]) == (25, 0)
    assert "Means" not in score.render(scores, "text")
    assert "mean_over" not in json.loads(score.render(scores, "json"))
