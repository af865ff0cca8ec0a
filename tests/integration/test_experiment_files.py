"""Every experiment file says how to run it, is of the tree, and builds the network that it names."""

import re
from pathlib import Path

import pytest
import torch

from dcnlab.config import names, packaged
from dcnlab.config.load import load_experiment
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


def load(name, *overrides):
    return load_experiment(name, ["data.root=somewhere", *overrides])


def test_every_task_has_its_experiments():
    assert {load(name).task for name in NAMES} == set(names.TASKS)
    assert set(PAPER) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_opens_with_what_it_is_and_its_own_command(name):
    text = (ROOT / f"{name}.yaml").read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert text.startswith("# ")
    assert f"dcnlab fit experiments/{name}.yaml" in re.sub(r"\s+", " ", head)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_builds_its_network_and_every_parameter_has_a_group(name):
    config = load(name, "model.backbone.weights=none")
    with torch.device("meta"):
        task = task_module(config, [str(number) for number in range(20)])
    from dcnlab.tasks.optim import parameter_groups

    learnt = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    grouped = [parameter for group in parameter_groups(task.model, config.optim) for parameter in group["params"]]
    assert len(learnt) == len(grouped) == len({id(parameter) for parameter in grouped})


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_files_hold_the_papers_settings(name):
    steps, data = PAPER[name]
    config = load(name)
    assert (config.trainer.max_steps, config.trainer.effective_batch, config.data.batch_size) == (steps, 8, 1)
    assert (config.optim.lr, config.optim.momentum, config.optim.milestones) == (1e-3, 0.9, [pytest.approx(2 / 3)])
    assert {key: getattr(config.data, key) for key in data} == data
    assert (config.model.backbone.name, config.model.backbone.weights) == ("resnet101", "imagenet")
    assert (config.model.deform_layers, config.model.dilation, config.model.offset_groups) == (0, 2, 1)
