"""Detection runs from files to results: every detector trains, is drawn, and is scored as `dcnlab score` scores it."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import complaints, dcnlab, python
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dcnlab.config.load import load_experiment
from dcnlab.training import run as runs
from dcnlab.training.run import evaluate, resume

TINY = """
name: tiny
task: detection
data: {name: voc, root: shapes, val: null, protocol: voc, batch_size: 4, longer_side: 200, flip: false}
model:
  name: rfcn
  dilation: 1
  deform_layers: 1
  deform_pooling: true
  head_channels: 32
  backbone: {name: resnet10_slim}
  rpn: {scales: [2, 4], hidden_channels: 32, border: null, candidates: 100, proposals: 30, sampled: 64}
  rois: 32
optim: {name: adamw, lr: 0.004, warmup: 10, clip_norm: 10}
test: {pictures: 2}
trainer: {max_steps: 2, accelerator: cpu, threads: 1}
logger: {wandb: false, every: 1}
"""
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
    "<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Red and blue squares on grey, as a VOC-style folder and as COCO's JSON; one image has none, one is difficult."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    random = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "annotations"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("blue\nred\n")
    for split, count in (("train", 24), ("test", 9)):
        images, annotations = [], []
        for number in range(count):
            picture = random.integers(100, 140, (72, 96, 3)).astype(np.uint8)
            objects = []
            for place in range(0 if number == 5 else 2):
                side, name = int(random.integers(16, 32)), ("blue", "red")[int(random.integers(2))]
                x, y = int(random.integers(0, 48 - side)) + 48 * place, int(random.integers(0, 72 - side))
                picture[y : y + side, x : x + side] = (220, 40, 40) if name == "red" else (40, 40, 220)
                difficult = int(number == 3 and place == 0)
                box = {"x1": x + 1, "y1": y + 1, "x2": x + side, "y2": y + side}
                objects.append(OBJECT.format(name=name, difficult=difficult, **box))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number + 100, "category_id": 7 if name == "red" else 3,
                     "bbox": [x, y, side, side], "area": side * side, "iscrowd": difficult}
                )  # fmt: skip
            stem = f"{split}_{number}"
            Image.fromarray(picture).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
            size = "<size><width>96</width><height>72</height><depth>3</depth></size>"
            xml = f"<annotation><filename>{stem}.jpg</filename>{size}{''.join(objects)}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(xml)
            images.append({"id": number + 100, "file_name": f"{stem}.jpg", "width": 96, "height": 72})
        names = [image["file_name"].removesuffix(".jpg") for image in images]
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        categories = [{"id": 3, "name": "blue"}, {"id": 7, "name": "red"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def shapes(folder, tmp_path, monkeypatch):
    """The folder and an experiment on it, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "shapes")
    Path("tiny.yaml").write_text(TINY)
    return Path("shapes")


def fit(*overrides):
    run = runs.fit(load_experiment("tiny.yaml", list(overrides)))
    return run, json.loads((run / "results.json").read_text())


def scored(run, annotations, protocol):
    done = dcnlab(
        "score", "detection", "--detections", run / "detections.json", "--annotations", annotations,
        "--protocol", protocol, "--split", "test", "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_detections_file_scores_as_the_trained_run_did(shapes):
    """The voc command gives detections.json the run's own AP; test-time options change the AP."""
    run, results = fit("id=one", "trainer.max_steps=200")
    assert set(results["metrics"]) == {f"ap{iou}{name}" for iou in (50, 70) for name in ("", "/blue", "/red")}
    assert results["metrics"]["ap50"] > 60
    assert len(list((run / "pictures").iterdir())) == 2
    again = scored(run, shapes, "voc")
    for name, value in results["metrics"].items():
        assert again[name] == pytest.approx(value, abs=1e-3), name
    tested = evaluate(run, ["test.shorter_sides=[64,72,96]", "test.box_rounds=1", "test.flip=true"])
    assert tested["ap50"] > 60
    assert tested["ap70"] != results["metrics"]["ap70"]


def test_coco_metrics_equal_pycocotools_on_the_saved_file(shapes):
    """The run's AP, AP50 and AP75 equal COCOeval's on detections.json."""
    run, results = fit("id=one", "data.name=coco", "data.protocol=coco", "trainer.max_steps=40")
    truth = COCO(str(shapes / "annotations/instances_test.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(run / "detections.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    for name, value in zip(("ap", "ap50", "ap75"), evaluation.stats, strict=False):
        assert results["metrics"][name] == pytest.approx(100 * value, abs=1e-3)
    assert results["metrics"]["ap50"] > 5
    assert {entry["category_id"] for entry in json.loads((run / "detections.json").read_text())} <= {3, 7}


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=rfcn", "model.ohem=true", "model.deform_pooling=false"],
        ["model.name=faster_rcnn", "model.fc_channels=32"],
        ["model.name=faster_rcnn", "model.fc_channels=32", "model.deform_pooling=false", "model.deform_layers=0"],
        ["model.name=class_aware_rpn", "model.deform_pooling=false"],
        ["model.name=faster_rcnn_fpn", "model.fc_channels=32", "model.backbone.name=resnet18"],
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_every_detector_trains_and_is_scored(shapes, overrides):
    run, results = fit("id=one", *overrides)
    assert results["status"] == "finished"
    assert 0 <= results["metrics"]["ap50"] <= 100
    assert results["model"]["params"] > 0
    assert (run / "detections.json").is_file()


def test_offset_layers_have_their_own_learning_rates(shapes):
    """Pooling offsets learn at 0.01 times the rate, as in the paper."""
    config = load_experiment("tiny.yaml", ["model.name=faster_rcnn", "optim.lr=0.1", "optim.reduce_lr_scale=3"])
    from dcnlab.tasks.optim import parameter_groups
    from dcnlab.training.build_data import data_module
    from dcnlab.training.build_network import task_module

    task = task_module(config, data_module(config).classes)
    rates = {group["name"]: group["lr"] for group in parameter_groups(task.model, config.optim)}
    assert rates["pooling offset weights"] == pytest.approx(0.001)  # the paper's beta of 0.01
    assert rates["offset weights"] == rates["weights"] == pytest.approx(0.1)
    assert rates["reduce weights"] == pytest.approx(0.3)


KILLED = """
import os, signal, sys
from dcnlab.config.load import load_experiment
from dcnlab.training.run import fit
from dcnlab.tasks.detection import Detection
step = Detection.training_step
def dies_in_the_second_pass(self, batch, index):
    if self.trainer.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
Detection.training_step = dies_in_the_second_pass
fit(load_experiment("tiny.yaml", sys.argv[1:]))
"""


def test_a_killed_detector_resumes_to_the_same_detections(shapes):
    """After SIGKILL and resume, weights and detections.json equal those of an uninterrupted run."""
    overrides = ["trainer.max_steps=12", "trainer.deterministic=true"]
    whole, _ = fit("id=whole", *overrides)
    part = Path("runs/tiny/part")
    killed = python("-c", KILLED, "id=part", *overrides)
    assert killed.returncode == -signal.SIGKILL
    resume(part)
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, part)]
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())
    assert (whole / "detections.json").read_bytes() == (part / "detections.json").read_bytes()


def test_nine_test_images_score_the_same_on_two_ranks(shapes):
    """A test split that the ranks do not divide evenly gives the metrics of one rank."""
    fit("id=one", "optim.lr=0")  # untrained it finds some by chance
    scores = []
    for devices in (1, 2):  # nine images
        done = dcnlab("evaluate", "runs/tiny/one", f"trainer.devices={devices}", "--format", "json")
        assert (done.returncode, done.stderr) == (0, "")
        scores.append(json.loads(done.stdout))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0]["ap50"] > 0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.name=deeplab", "model.name is 'deeplab'; task detection takes class_aware_rpn"),
        ("model.name=faster_rcnn_fpn", "a feature pyramid needs a backbone whose strides double"),
        ("model.name=class_aware_rpn", "model.deform_pooling is true; class_aware_rpn has none"),
        ("data.protocol=voc12", "data.protocol is 'voc12'; nearest: voc"),
        ("data.test=tets", "test"),
        ("data.classes=[rde]", "nearest is 'red'"),
        ("model.rpn.scales=[]", "model.rpn.scales is []"),
        ("trainer.precision=bf16-true", "trainer.precision is 'bf16-true', which rounds the boxes too"),
    ],
)
def test_impossible_detection_settings_are_one_line(shapes, override, says):
    """Exit status 2, one line with the reason, and no run folder."""
    done = dcnlab("fit", "tiny.yaml", override)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("runs").exists()


def emptied(path, ids=str):
    """Take all boxes out of a file of COCO's, and give its images other ids."""
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["id"] = ids(image["id"])
    path.write_text(json.dumps({**content, "annotations": []}))


def test_a_test_split_without_boxes_is_run_but_not_scored(shapes):
    """Detections are written, metrics stay empty, and fit, evaluate and table say why."""
    emptied(shapes / "annotations/instances_test.json", lambda number: f"frame-{number}")
    done = dcnlab("fit", "tiny.yaml", "id=one", "data.name=coco", "data.protocol=coco", "test.score_floor=0")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n")
    said = [
        "warning: data.test has no box that counts in its 9 images; it is run, but there is nothing to score",
        "note: no metrics: data.test has nothing to find, no label of any class",
    ]
    assert complaints(done.stderr) == said
    results = json.loads(Path("runs/tiny/one/results.json").read_text())
    assert (results["status"], results["metrics"]) == ("finished", {})
    assert results["metrics_over"] == {"classes": [], "left_out": ["blue", "red"]}
    detections = json.loads(Path("runs/tiny/one/detections.json").read_text())
    assert {entry["image_id"] for entry in detections} == {f"frame-{number}" for number in range(100, 109)}
    again = dcnlab("evaluate", "runs/tiny/one")
    assert (again.returncode, again.stdout, again.stderr.splitlines()) == (0, "", said)
    shown = dcnlab("table", "tiny")
    assert "note: 1 of 1 runs: no metrics: data.test has nothing to find" in shown.stderr


def test_training_without_any_box_is_refused(shapes):
    """One line counts the images, and no run folder is made."""
    emptied(shapes / "annotations/instances_train.json", int)
    done = dcnlab("fit", "tiny.yaml", "data.name=coco")
    assert done.returncode == 2
    assert "data.train has no box that counts in its 24 images; training needs a split with labels" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_class_without_boxes_is_left_out_of_the_mean(shapes):
    """A warning names the class at the start; metrics_over and a note name the classes that count."""
    (shapes / "classes.txt").write_text("blue\nred\ngreen\n")
    run, results = fit("id=one", "data.classes=[blue,red,green]")
    assert results["metrics_over"] == {"classes": ["blue", "red"], "left_out": ["green"]}
    done = dcnlab("evaluate", run)
    assert done.stderr.splitlines() == [
        "warning: class 'green' is in no label of data.test",
        "note: means are over 2 of 3 classes, without those that data.test lacks: green",
    ]
