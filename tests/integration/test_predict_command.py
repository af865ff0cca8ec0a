"""`dcnlab predict`: its files, images that cannot be read, and folders that are somebody's."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcnlab import score
from dcnlab.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained_tasks):
    """A folder with a trained run of each task, and images in `photos`, two of them of one name, one broken."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(trained_tasks / "runs", folder / "runs")
    (folder / "photos/sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    for name in ("a.png", "a.jpg", "sub/b.png"):
        Image.fromarray(pixels).save(folder / "photos" / name)
    (folder / "photos/broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def predict(folder, tmp_path, monkeypatch, capsys):
    """Run the command on a task's run; gives its exit status, output, errors and the new folder."""
    monkeypatch.chdir(folder)

    def call(task, images="photos", *options, out=None):
        out = tmp_path / "out" if out is None else out
        words = ["dcnlab", "predict", f"runs/{task}/run", images, "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err, out

    return call


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_a_detector_writes_coco_results_and_pictures(predict, folder):
    """Every row of detections.json is a box inside its image, and each image has a picture of its size."""
    status, said, errors, out = predict("detection")
    assert (status, said.strip()) == (0, str(out))
    assert files(out) == ["detections.json", *(f"pictures/{name}.jpg" for name in ("a", "a.png", "sub/b"))]
    rows = json.loads((out / "detections.json").read_text())
    assert {row["file_name"] for row in rows} == {"a.jpg", "a.png", "sub/b.png"}
    assert {row["category"] for row in rows} <= {"blue", "red"}
    for row in rows:
        x, y, width, height = row["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 64.001
        assert y + height <= 48.001
    assert Image.open(out / "pictures/sub/b.jpg").size == (64, 48)
    assert errors.count("left out: photos/broken.jpg cannot be read as an image") == 1
    assert "note: 1 of 4 images were left out" in errors


@pytest.mark.parametrize(("score", "note"), [("1", True), ("0", False)])
def test_pictures_without_a_box_are_counted_in_a_note(predict, score, note):
    """No box scores 1, every box 0: the note names --score, and the files that hold all boxes."""
    _, _, errors, out = predict("detection", "photos/a.png", "--score", score)
    assert len(json.loads((out / "detections.json").read_text())) > 0
    said = "note: 1 of 1 pictures show no box, as none scores 1; --score draws those of a lower score" in errors
    assert said is note
    assert len(files(out)) == 2


def test_predictions_of_the_test_images_score_as_the_run_does(predict, trained_tasks, tmp_path):
    """`dcnlab score` reads the files, and gives the metrics of results.json."""
    shapes = trained_tasks / "shapes"
    (tmp_path / "test").mkdir()
    for number in range(16, 23):
        shutil.copy(shapes / f"JPEGImages/{number}.jpg", tmp_path / "test")
        (tmp_path / "labels").mkdir(exist_ok=True)
        shutil.copy(shapes / f"SegmentationClass/{number}.png", tmp_path / "labels")

    def kept(task):
        return json.loads((trained_tasks / f"runs/{task}/run/results.json").read_text())["metrics"]

    images = str(tmp_path / "test")
    boxes = predict("detection", images, "--no-pictures", out=tmp_path / "boxes")[3] / "detections.json"
    assert score.detection(boxes, shapes, "voc", "test")["ap50"] == pytest.approx(kept("detection")["ap50"], abs=0.01)
    labels = predict("segmentation", images, "--no-pictures", out=tmp_path / "maps")[3] / "labels"
    scores = score.segmentation(labels, tmp_path / "labels", 21, 255, None)
    assert scores["miou"] == pytest.approx(kept("segmentation")["miou"], abs=0.01)


def test_a_segmentation_writes_label_pngs_with_a_palette(predict, folder):
    """Labels are pixels of the image's size, coloured by VOC's palette; classes.json names them."""
    _, _, _, out = predict("segmentation", "photos/sub/b.png")
    assert files(out) == ["classes.json", "labels/b.png", "pictures/b.jpg"]
    label = Image.open(out / "labels/b.png")
    assert (label.mode, label.size) == ("P", (64, 48))
    assert label.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert np.array(label).max() < len(json.loads((out / "classes.json").read_text()))


def test_a_classifier_writes_its_best_classes_of_each_image(predict):
    """classes.csv has the classes of each image, the best first; --no-pictures draws none."""
    _, _, _, out = predict("classification", "photos", "--no-pictures")
    assert files(out) == ["classes.csv"]
    rows = list(csv.DictReader((out / "classes.csv").open()))
    assert [(row["file"], row["rank"]) for row in rows[:2]] == [("a.jpg", "1"), ("a.jpg", "2")]
    assert sum(float(row["probability"]) for row in rows[:2]) == pytest.approx(1, abs=1e-4)
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])


def test_a_folder_with_files_is_left_alone(predict, tmp_path):
    """One line names a file in it; the exit status is 2, and nothing is added."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    status, _, errors, out = predict("classification", out=tmp_path / "mine")
    assert status == 2
    assert "which holds thesis.txt; name a new or an empty folder" in errors
    assert files(out) == ["thesis.txt"]


@pytest.mark.parametrize("images", ["photos/broken.jpg", "nowhere"])
def test_nothing_is_written_where_no_image_can_be_read(predict, tmp_path, images):
    """The exit status is 2, and no folder is made."""
    status, said, errors, _ = predict("segmentation", images)
    assert (status, said) == (2, "")
    assert images in errors
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_prediction_leaves_nothing(predict, tmp_path, monkeypatch):
    """Ctrl-C after the first image: exit status 130, and neither files nor a temporary folder."""
    from dcnlab.training.prediction_files import PredictionFiles

    def add(self, prediction):
        assert list(tmp_path.glob(".out.*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionFiles, "add", add)
    assert predict("classification")[0] == 130
    assert list(tmp_path.iterdir()) == []
    assert Path("photos").is_dir()
