"""A small detection run on the embedded digits, for the tests of what looks at trained networks."""

import pytest
import torch

from dcnlab.config.load import load_experiment
from dcnlab.training.run import fit

DETECTION = """
name: tiny
task: detection
data: {name: digits, classes: ["0", "1"], image_size: 48, scale: [0.8, 1.2], digits: 2, clutter: 0, train_length: 8,
       test_length: 5, val: null, batch_size: 4}
model:
  name: rfcn
  deform_layers: 2
  deform_pooling: true
  dilation: 2
  head_channels: 16
  backbone: {name: resnet10_slim}
  rpn: {scales: [2, 4], hidden_channels: 16, border: null, candidates: 50, proposals: 10, sampled: 32}
  rois: 16
optim: {offset_lr_scale: 0, pooling_offset_lr_scale: 0}
test: {pictures: 0}
trainer: {max_steps: 1, accelerator: cpu, threads: 1}
logger: {wandb: false, every: 1}
"""


@pytest.fixture(scope="session")
def detection_run(tmp_path_factory):
    """Of one step; its offsets are zero."""
    folder = tmp_path_factory.mktemp("detection")
    (folder / "tiny.yaml").write_text(DETECTION)
    return fit(load_experiment(str(folder / "tiny.yaml"), [f"out={folder}", "id=one"]))


@pytest.fixture
def run(detection_run, tmp_path):
    """A copy of it, whose files a test may change."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "results.json", "checkpoints/last.ckpt"):
        (folder / name).write_bytes((detection_run / name).read_bytes())
    return folder


@pytest.fixture
def set_offsets(run):
    """Give the run's last deformable layer offsets (y, x of each of nine points) that are the same at all places."""

    def set(offsets):
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        bias = torch.tensor(offsets, dtype=torch.float32)
        checkpoint["state_dict"]["model.backbone.layer4.0.conv2.offset_conv.bias"] = bias
        torch.save(checkpoint, run / "checkpoints/last.ckpt")

    return set
