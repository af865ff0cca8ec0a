"""The main paths whose instructions are counted: each prepares its arguments and gives the call to count.

Small on purpose, for valgrind runs about fifty times slower than the processor; so small that Python's share is seen
too. Every call does the same work as the one before: nothing is trained, no random number depends on an earlier one.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import torch
from synthetic_data import ground_truth, voc_folder
from torch import Tensor, nn
from torch.nn import functional

from dcnlab import ops
from dcnlab.config.load import load_experiment
from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.detection.voc import read_voc
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.models.balanced_sample import balanced_sample
from dcnlab.surgery import deform
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.training.build_network import task_module

Work = Callable[[], object]


def _gradients(function: Callable[..., Tensor], leaves: list[Tensor]) -> Work:
    """A forward and a backward pass, every leaf's gradient wanted."""
    for leaf in leaves:
        leaf.requires_grad_()
    return lambda: torch.autograd.grad(function(*leaves).sum(), leaves)


def _conv_leaves(offset_groups: int = 1) -> list[Tensor]:
    """Input, offset and weight of a 3x3 convolution, 64 channels, two images."""
    return [torch.randn(2, 64, 12, 12), torch.randn(2, 18 * offset_groups, 12, 12) * 2, torch.randn(64, 64, 3, 3)]


def conv_forward() -> Work:
    """Inference of the operator."""
    input, offset, weight = _conv_leaves()
    return lambda: ops.deform_conv2d(input, offset, weight, padding=1)


def conv_both() -> Work:
    """The operator with all three gradients."""
    return _gradients(functools.partial(ops.deform_conv2d, padding=1), _conv_leaves())


def conv_modulated() -> Work:
    """The same with a mask and two groups of offsets: the kernels' other branches."""

    def modulated(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return ops.deform_conv2d(input, offset, weight, padding=1, mask=mask)

    return _gradients(modulated, [*_conv_leaves(2), torch.rand(2, 18, 12, 12)])


def _boxes(count: int, size: float) -> Tensor:
    """RoIs (count, 5) on one image, about half of its size."""
    corners = torch.rand(count, 2) * size / 2
    return torch.cat([torch.zeros(count, 1), corners, corners + size / 4 + torch.rand(count, 2) * size / 4], 1)


def roi_pool_both() -> Work:
    """RoIAlign's deformable form, eight boxes."""
    boxes = _boxes(8, 24.0)

    def pool(input: Tensor, offset: Tensor) -> Tensor:
        return ops.deform_roi_pool(input, boxes, offset, 7, sampling_ratio=2)

    return _gradients(pool, [torch.randn(1, 64, 24, 24), torch.randn(8, 2, 7, 7)])


def ps_roi_pool_both() -> Work:
    """The authors' position-sensitive form, eight boxes, a 7x7 grid of maps."""
    boxes = _boxes(8, 24.0)

    def pool(input: Tensor, offset: Tensor) -> Tensor:
        return ops.deform_ps_roi_pool(input, boxes, offset, 7, group_size=7)

    return _gradients(pool, [torch.randn(1, 8 * 49, 24, 24), torch.randn(8, 2, 7, 7)])


def attention_both() -> Work:
    """Multi-scale deformable attention, 100 queries, two levels."""
    shapes, starts = torch.tensor([[24, 24], [12, 12]]), torch.tensor([0, 576])

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ops.ms_deform_attn(value, shapes, starts, locations, weights)

    return _gradients(
        attend, [torch.randn(1, 720, 4, 32), torch.rand(1, 100, 4, 2, 4, 2) * 1.2 - 0.1, torch.rand(1, 100, 4, 2, 4)]
    )


def surgery() -> Work:
    """A small network copied, and its last convolution made deformable."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return lambda: deform(copy.deepcopy(network), 1)


def layer_forward() -> Work:
    """A deformable layer on a map of 4x4, where dispatch and checks are most of the work."""
    layer = deform(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), 1).eval()
    input = torch.randn(1, 8, 4, 4)

    def forward() -> Tensor:
        with torch.no_grad():
            return layer(input)

    return forward


def configured_classifier(deform_layers: int) -> Any:
    """The quickstart's LightningModule."""
    config = load_experiment("classification/quickstart", [f"model.deform_layers={deform_layers}"])
    return task_module(config, [str(digit) for digit in range(10)])


def training_step() -> Work:
    """Forward, backward and optimizer of the quickstart's network with three deformable layers, four images."""
    task = configured_classifier(deform_layers=3)
    task.optim.lr = 0.0  # the optimizer's whole work, and the same weights in the next call
    optimizer, schedule = optimizer_and_schedule(task.model, task.optim, 750)
    images, labels = torch.randn(4, 3, 56, 56), torch.arange(4)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(task(images), labels, label_smoothing=task.optim.label_smoothing).backward()
        optimizer.step()
        schedule.step()

    return step


def voc_annotations() -> Work:
    """Ten XML files and their list."""
    root = voc_folder(Path("voc"), images=10)
    return lambda: read_voc(root, "train")


def image() -> Work:
    """An image of a training split: decoded, resized, flipped or not, normalised."""
    split = DetectionSplit(read_voc(voc_folder(Path("voc_image"), images=1), "train"), shorter_side=150, augment=True)
    return lambda: split[(0, 0)]


def coco_annotations() -> Work:
    """A JSON file of 20 images and 120 objects with masks."""
    content, root = ground_truth(images=20), Path("coco")
    for folder in ("annotations", "train"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    for entry in content["images"]:
        (root / "train" / entry["file_name"]).touch()
    return lambda: read_coco(root, "train")


def coco_scoring() -> Work:
    """360 detections in 20 images, by faster-coco-eval."""
    truth = ground_truth(images=20)
    random = np.random.default_rng(0)
    detections = [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": (np.array(entry["bbox"]) + random.normal(0, 4, 4).clip(-6, 6)).tolist(),
            "score": random.uniform(),
        }
        for entry in truth["annotations"]
        for _ in range(3)
    ]
    return lambda: coco_ap(truth, detections)


def sample() -> Work:
    """256 of 5,000 anchors, half of them positive."""
    labels = torch.from_numpy(np.random.default_rng(0).choice([-1, 0, 1], 5000, p=[0.2, 0.75, 0.05]))
    return lambda: balanced_sample(labels, 256, 0.5, seed=0)


PATHS: dict[str, Callable[[], Work]] = {
    "deform_conv2d forward": conv_forward,
    "deform_conv2d both": conv_both,
    "deform_conv2d both, mask, 2 offset groups": conv_modulated,
    "deform_roi_pool both": roi_pool_both,
    "deform_ps_roi_pool both": ps_roi_pool_both,
    "ms_deform_attn both": attention_both,
    "surgery": surgery,
    "DeformConv2d forward": layer_forward,
    "training step": training_step,
    "VOC annotations": voc_annotations,
    "COCO annotations": coco_annotations,
    "image": image,
    "balanced sample": sample,
    "COCO scoring": coco_scoring,
    "CUDA host: deform_conv2d forward": cuda_host.conv_forward,
    "CUDA host: deform_conv2d both": cuda_host.conv_both,
    "CUDA host: deform_ps_roi_pool both": cuda_host.pool_both,
}
"""By name; "both" is forward and backward. Those of CUDA's host path come last: they change their process for good."""
