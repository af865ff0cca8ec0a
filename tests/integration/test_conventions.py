"""docs/recipe.md: each row's key or constant is there, and does what the row says."""

import json
import re

import pytest
import torch
from locations import ROOT
from torch import nn

from dcnlab.config.keys import type_of
from dcnlab.config.load import load_experiment
from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.models.backbone import Backbone
from dcnlab.models.resnet import residual_network
from dcnlab.tasks.segmentation import segment

ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (ROOT / "docs/recipe.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| Convention")
]
KEYS = {
    # The key, with its value in a paper's file and in an authors' one.
    "optim.bias_lr_scale": ("segmentation/deeplab_voc", 1.0, 2.0),
    "model.roi_far_edge": ("detection/rfcn_voc", "exact", "exact"),
    "model.plain_pooling": ("detection/faster_rcnn_voc", "mean", "authors"),
    "model.least_negative_iou": ("detection/faster_rcnn_coco", 0.0, 0.1),
    "optim.warmup_kind": ("detection/rfcn_coco", "linear", "constant"),
    "model.offset_dilation": ("segmentation/deeplab_cityscapes", None, 1),
    "data.protocol": ("detection/rfcn_voc", "voc07", "voc07"),
    "model.rpn.hidden_channels": ("detection/class_aware_rpn_voc", 512, None),
}


def named(row):
    return re.fullmatch(r"`(.+)`", row[3])[1]


def test_every_row_names_a_key_or_a_constant_that_is_tested_here():
    """Each is a key of `KEYS`, or has a test below; and each of these has a row."""
    others = {"segment", "Backbone.maxpool", "DetectionSplit"}
    assert {named(row) for row in ROWS} == set(KEYS) | others
    assert all(len(row) == 5 and all(row) for row in ROWS)


@pytest.mark.parametrize("key", KEYS)
def test_a_rows_key_has_its_value_in_both_recipes(key):
    """The key is of the tree; the paper's file and the authors' hold what the page says."""
    name, ours, theirs = KEYS[key]
    assert type_of(key) is not None
    for experiment, value in ((name, ours), (f"{name}_authors", theirs)):
        if "class_aware" in experiment and experiment.endswith("authors"):
            continue  # the public code has none
        found = load_experiment(experiment, ["data.root=somewhere"])
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value


def test_scores_are_brought_to_the_labels_before_argmax():
    """Logits of two pixels give four classes; those of two pixels' argmax would be 0, 0, 1, 1."""
    logits = torch.tensor([[4.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    assert segment(nn.Identity(), logits, (1, 4)).tolist() == [[[0, 0, 0, 1]]]


def test_the_first_poolings_windows_begin_before_the_map():
    """torchvision's padding of one pixel stands."""
    with torch.device("meta"):
        assert Backbone(residual_network("resnet50"), has_pool=True).maxpool.padding == 1


def test_coco_images_without_boxes_are_trained_on(tmp_path):
    """Of two images one has a box; the training split holds both."""
    (tmp_path / "annotations").mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "height": 9, "width": 9} for number in (1, 2)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 0, "area": 25}
    tree = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(tree))
    (tmp_path / "train").mkdir()
    for image in images:
        (tmp_path / "train" / image["file_name"]).touch()
    split = DetectionSplit(read_coco(tmp_path, ["train"]), augment=True)
    assert len(split) == 2
    assert [len(split.boxes[slice(*split.offsets[at : at + 2])]) for at in range(2)] == [1, 0]
