"""Conventions that docs/fidelity.md states of ours, and that no key decides."""

import json

import torch
from torch import nn

from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.models.backbone import Backbone
from dcnlab.models.resnet import residual_network
from dcnlab.tasks.segmentation import segment


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
