"""Loading a trained network without its data, and predicting for images of any kind."""

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dcnlab
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.training.prediction import BATCH, READ_AHEAD
from dcnlab.training.prediction_files import PredictionFiles
from dcnlab.training.run import evaluate

TASKS = ("classification", "segmentation", "detection")


@pytest.fixture
def trained(trained_tasks):
    """A folder with data and a trained run of each task."""
    return trained_tasks


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """The path of a task's run, in a folder that has the runs and not the data."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return lambda task: Path("runs") / task / "run"


@pytest.mark.parametrize("task", TASKS)
def test_a_run_loads_without_its_data(run, trained, task):
    """The network is the checkpoint's, ready for use, and knows its classes."""
    loaded = dcnlab.load(run(task))
    weights = torch.load(run(task) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert loaded.classes == ["background"] * (task == "segmentation") + ["blue", "red"]
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(run):
    """Loading compares config.yaml with the checkpoint, as resuming does."""
    config = run("segmentation") / "config.yaml"
    config.write_text(config.read_text().replace("deform_layers: 1", "deform_layers: 2"))
    with pytest.raises(ConfigError, match=r"was trained with model.deform_layers 1, which is 2 now"):
        dcnlab.load(run("segmentation"))


def test_an_older_checkpoint_takes_its_classes_from_the_data(run, trained):
    """Without hyper_parameters the data set names the classes; without the data the error says so."""
    path = run("detection") / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["hyper_parameters"]
    torch.save(content, path)
    assert dcnlab.load(run("detection"), [f"data.root={trained / 'shapes'}"]).classes == ["blue", "red"]
    with pytest.raises(ConfigError, match="is of an older version and does not name its classes"):
        dcnlab.load(run("detection"))


def test_a_device_that_is_not_there_is_one_line(run, monkeypatch):
    """The error names the device and says what to take."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device is 'cuda', and torch finds no GPU here .*; take cpu"):
        dcnlab.load(run("detection"), device="cuda")


def test_predicted_classes_are_those_that_evaluate_counts(run, trained, monkeypatch):
    """Top 1 of the predictions for the test's files is the top 1 of `dcnlab evaluate`."""
    monkeypatch.chdir(trained)
    paths = sorted((trained / "folders/test").glob("*/*.png"))
    top = [prediction.top(1)[0][0] for prediction in dcnlab.predict(run("classification"), paths)]
    right = sum(name == path.parent.name for name, path in zip(top, paths, strict=True))
    assert 100 * right / len(paths) == pytest.approx(evaluate(run("classification"), [])["top1"], abs=1e-4)


def test_predicted_boxes_are_those_of_the_runs_own_test(run, trained):
    """The boxes for a test image are those in detections.json, in the image's pixels."""
    rows = json.loads((run("detection") / "detections.json").read_text())
    (found,) = dcnlab.predict(run("detection"), trained / "shapes/JPEGImages/16.jpg")
    expected = [row for row in rows if str(row["image_id"]) == "16"]
    boxes = torch.tensor([row["bbox"] for row in expected])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(found.boxes, boxes, rtol=1e-4, atol=1e-3)
    assert found.names == [row["category"] for row in expected]
    assert found.draw().size == (64, 64)


def test_predicted_labels_have_the_images_size_and_its_score(run, trained):
    """The mIoU over the predicted label maps is the run's own."""
    task = dcnlab.load(run("segmentation"))
    scores = task.test_scores
    for number in range(16, 23):
        (made,) = dcnlab.predict(task, trained / f"shapes/JPEGImages/{number}.jpg")
        label = torch.from_numpy(np.array(Image.open(trained / f"shapes/SegmentationClass/{number}.png"))).long()
        assert made.labels.shape == label.shape
        scores.update(made.labels[None].long(), label[None])
    results = json.loads((run("segmentation") / "results.json").read_text())
    assert float(scores.compute()) == pytest.approx(results["metrics"]["miou"], abs=1e-3)


def test_every_kind_of_image_gives_the_same_prediction(run, trained):
    """A path, a PIL image, an array and a tensor of the same pixels are one image."""
    path = trained / "folders/test/red/17.png"
    picture = Image.open(path)
    pixels = np.array(picture)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [path, picture, pixels, pixels / 255, channels_first, channels_first / 255]
    made = [prediction.probabilities for prediction in dcnlab.predict(run("classification"), kinds)]
    for other in made[1:]:
        torch.testing.assert_close(other, made[0])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"image 0 is an array \(4, 4, 2\); it must be \(H, W, 3\) or \(H, W\)"),
        (np.full((4, 4), 2.0), "holds floats from 2 to 2; they must be from 0 to 1"),
        (torch.zeros(4, 4), r"is a tensor \(4, 4\); it must be a tensor \(3, H, W\) or \(1, H, W\)"),
        ("nowhere.png", "nowhere.png cannot be read as an image"),
    ],
)
def test_a_wrong_image_is_named_in_one_line(run, image, says):
    """The error names the image and what an image has to be."""
    with pytest.raises(DataError, match=says):
        next(dcnlab.predict(run("classification"), image))


def test_images_are_read_as_they_are_needed(run):
    """An endless stream of images gives its first predictions."""
    drawn = []

    def stream():
        while True:
            drawn.append(1)
            yield np.zeros((40, 40), np.uint8)

    predictions = dcnlab.predict(run("segmentation"), stream())
    assert [next(predictions).name for _ in range(3)] == ["image 0", "image 1", "image 2"]
    assert len(drawn) < 12
    predictions.close()


@pytest.mark.parametrize("task", TASKS)
def test_images_in_memory_do_not_grow_with_their_number(run, tmp_path, task):
    """Of 80 images that are predicted and written, those at hand, read ahead and in the batch are alive, no more."""
    images, most = [], 0

    def stream():
        nonlocal most
        for number in range(80):
            image = Image.new("RGB", (20, 16), (number, 0, 0))
            images.append(weakref.ref(image))
            most = max(most, sum(reference() is not None for reference in images))
            yield image

    files = PredictionFiles(tmp_path, Path())
    for prediction in dcnlab.predict(run(task), stream()):
        images.append(weakref.ref(prediction.image))
        files.add(prediction)
    files.close()
    in_batch = BATCH if task == "classification" else 1
    assert len(images) == 160
    assert 0 < most <= 2 * (in_batch + READ_AHEAD + 2)  # given and converted
    assert len(list((tmp_path / "pictures").iterdir())) == 80
