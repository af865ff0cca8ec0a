"""Every experiment file says how to run it, is of the tree, and builds the network that it names."""

import re
from pathlib import Path

import pytest
import torch

from dcnlab.config import names, packaged
from dcnlab.config.load import load_experiment
from dcnlab.models.caffe_resnet import MEANS
from dcnlab.training.build_network import task_module

NAMES = [name for name in packaged.names("experiments") if not Path(name).name.startswith("base")]
ROOT = packaged.folder("experiments")
PAPER = {
    "segmentation/deeplab_voc": (30_000, {"shorter_side": 360, "train": "2012/train_aug", "test": "2012/val"}),
    "segmentation/deeplab_cityscapes": (45_000, {"shorter_side": 1024, "train": "train", "test": "val"}),
}
PAPER |= {
    f"detection/{name}_{data}": (steps, {"shorter_side": 600, "longer_side": 1000, "protocol": protocol})
    for name in ("class_aware_rpn", "faster_rcnn", "rfcn")
    for data, steps, protocol in (("voc", 30_000, "voc07"), ("coco", 240_000, "coco"))
}
AUTHORS = {
    "segmentation/deeplab_voc_authors": (2e-3, 4, 12 * 2 * 10_582),
    "segmentation/deeplab_cityscapes_authors": (2e-3, 4, 53 * 2 * 2_975),
    "detection/faster_rcnn_voc_authors": (2e-3, 4, 7 * 2 * 16_551),
    "detection/rfcn_voc_authors": (2e-3, 4, 7 * 2 * 16_551),
    "detection/faster_rcnn_coco_authors": (4e-3, 8, 8 * 2 * 122_218),
    "detection/rfcn_coco_authors": (4e-3, 8, 8 * 2 * 122_218),
}
"""Rate on the mean, images a step, and images of the training: passes times images with their mirror images."""


def load(name, *overrides):
    return load_experiment(name, overrides, default_root="somewhere")


def test_every_task_has_its_experiments():
    """All three tasks have experiments, and the paper's are among them."""
    assert {load(name).task for name in NAMES} == set(names.TASKS)
    assert set(PAPER) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_begins_with_its_description_and_command(name):
    """The comment at the top holds the command that runs the file."""
    text = (ROOT / f"{name}.yaml").read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert text.startswith("# ")
    words = re.sub(r"[\s#]+", " ", head)
    assert f"dcnlab fit experiments/{name}.yaml" in words or f"dcnlab fit {name} " in words


@pytest.mark.parametrize("name", NAMES)
def test_every_file_groups_each_parameter_once(name):
    """The network of every experiment file builds, and the optimizer's groups hold each parameter once."""
    config = load(name, "model.backbone.weights=none")
    with torch.device("meta"):
        task = task_module(config, [str(number) for number in range(20)])
    from dcnlab.tasks.optim import parameter_groups

    learnt = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    grouped = [parameter for group in parameter_groups(task.model, config.optim) for parameter in group["params"]]
    assert len(learnt) == len(grouped) == len({id(parameter) for parameter in grouped})


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_files_have_the_papers_settings(name):
    """Schedule, sizes and weights are the paper's; nothing of the authors' code's own is left in them."""
    steps, data = PAPER[name]
    config = load(name)
    assert (config.trainer.max_steps, config.trainer.effective_batch, config.data.batch_size) == (steps, 8, 1)
    assert (config.optim.lr, config.optim.momentum, config.optim.milestones) == (1e-3, 0.9, [pytest.approx(2 / 3)])
    assert {key: getattr(config.data, key) for key in data} == data
    assert (config.model.backbone.name, config.model.backbone.weights) == ("resnet101", "imagenet")
    assert (config.model.deform_layers, config.model.dilation, config.model.offset_groups) == (0, 2, 1)
    assert (config.optim.warmup, config.optim.reduce_lr_scale, config.model.ohem) == (0, 1.0, False)
    assert config.model.least_negative_iou == 0


@pytest.mark.parametrize("name", sorted(AUTHORS))
def test_the_authors_files_hold_the_public_codes_settings(name):
    """Summed at 5e-4 with a decay of 5e-4, for as many images as the code takes; Caffe's layout of the network."""
    rate, batch, images = AUTHORS[name]
    config = load(name)
    detects, optim = config.task == "detection", config.optim
    assert (optim.lr, config.trainer.effective_batch) == (rate, batch)
    assert (optim.lr / batch, optim.weight_decay * batch) == (pytest.approx(5e-4), pytest.approx(5e-4))
    assert 0 <= images - config.trainer.max_steps * batch < batch
    warm = (optim.warmup, optim.warmup_kind, optim.warmup_factor)
    assert warm == ((0, "linear", 0.1) if "deeplab_voc" in name else (1000, "constant", 0.1))
    assert config.data.mean == pytest.approx([value / 255 for value in MEANS], abs=1e-6)
    assert config.data.std == pytest.approx([1 / 255] * 3, abs=1e-8)
    assert config.model.backbone.stride_on_1x1
    assert (config.model.offset_groups, config.model.offset_dilation) == ((4, None) if detects else (1, 1))
    assert config.model.least_negative_iou == (0.1 if "faster" in name else 0.0)
    assert config.model.ohem == ("rfcn" in name)
    assert (optim.reduce_lr_scale, optim.bias_lr_scale) == (3.0 if "rfcn" in name else 1.0, 1.0 if detects else 2.0)
    assert config.data.crop_size == ((768, 1024) if "cityscapes" in name else None)
    assert config.model.plain_pooling == ("authors" if detects else "mean")
    assert config.model.roi_far_edge == ("exact" if detects else "added")


def test_the_headers_name_the_targets_that_joint_training_has():
    """R-FCN on VOC names the public code's 79.6 and 82.3; the pyramid's file claims no one's recipe."""
    for name in ("rfcn_voc", "rfcn_voc_authors"):
        text = (ROOT / f"detection/{name}.yaml").read_text()
        assert "79.6" in text
        assert "82.3" in text
    assert "no published recipe" in (ROOT / "detection/faster_rcnn_fpn_coco.yaml").read_text()
