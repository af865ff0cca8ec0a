"""A package of somebody else's: data sets, a detector, a backbone, a surgery, a callback and a logger."""

from pathlib import Path

SOURCE = '''
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.utils.data import Dataset

from dcnlab.nn import DeformConv2d

print("toys are imported")


class Stripes(Dataset):
    """Pictures of horizontal or vertical stripes, with the label."""

    classes = ["across", "down"]

    def __init__(self, split, data):
        self.length, self.side = data.options.get("length", 8), data.options.get("side", 16)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        rows = torch.arange(self.side) % 4 < 2
        image = rows[:, None].float().expand(self.side, self.side)
        return (image if index % 2 == 0 else image.T).expand(3, -1, -1).contiguous(), index % 2


class Corners(Stripes):
    """The same with a box in a corner."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        return image, {"boxes": box, "labels": torch.tensor([label + 1])}


class Guess(nn.Module):
    """A detector that finds the one box of `Corners`, and learns its class."""

    def __init__(self, classes, config):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, images, targets=None):
        logits = self.linear(torch.stack([image.flatten() for image in images]))
        if targets is not None:
            labels = torch.cat([target["labels"] for target in targets])
            return {"loss_class": nn.functional.cross_entropy(logits, labels - 1)}
        scores = logits.softmax(1)
        box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        return [
            {"boxes": box, "labels": row.argmax()[None] + 1, "scores": row.max()[None]} for row in scores
        ]


class Small(nn.Module):
    """A backbone of two layers."""

    def __init__(self, config):
        super().__init__()
        width = config.model.backbone.options.get("width", 8)
        self.channels, self.strides = {"res5": width}, {"res5": 2}
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, images):
        return {"res5": self.last(self.stem(images).relu()).relu()}


def surgery(model, layers, offset_groups, modulated):
    """Make the last layer of a `Small` deformable."""
    old = model.last
    model.last = DeformConv2d(old.in_channels, old.out_channels, 3, padding=1, offset_groups=offset_groups)


class Count(pl.Callback):
    """Counts the steps."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, *arguments):
        self.steps += 1


class Memory(Logger):
    """Keeps what is logged."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.keys = set()

    def log_metrics(self, metrics, step=None):
        self.keys |= set(metrics)

    def log_hyperparams(self, params, *arguments, **keywords):
        pass
'''
COMMON = """
trainer: {max_steps: 2, accelerator: cpu, threads: 1}
logger: {wandb: false, every: 1}
"""
CLASSIFY = f"""{COMMON}
data: {{name: "toys.parts:Stripes", batch_size: 4, options: {{length: 8}}}}
model: {{deform_layers: 1, deform_kind: "toys.parts:surgery", backbone: {{name: "toys.parts:Small"}}}}
"""
"""An experiment with a data set, a backbone and a surgery of toys."""
DETECT = f"""{COMMON}
task: detection
data: {{name: "toys.parts:Corners", batch_size: 4}}
model: {{name: "toys.parts:Guess"}}
optim: {{lr: 0.05}}
"""
"""An experiment with a data set and a detector of toys."""


def write_toys(folder: Path) -> None:
    """Write the package `toys` into a folder, and both experiments next to it."""
    (folder / "toys").mkdir()
    (folder / "toys/__init__.py").write_text("")
    (folder / "toys/parts.py").write_text(SOURCE)
    (folder / "classify.yaml").write_text(CLASSIFY)
    (folder / "detect.yaml").write_text(DETECT)
