"""An experiment of each task that trains in seconds, and the images that it takes."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = """
data: {train_length: 32, test_length: 40, batch_size: 16, image_size: 28}
model: {backbone: {name: resnet10_slim}}
trainer: {max_steps: 2, limit_val_batches: 3, accelerator: cpu, threads: 1}
logger: {every: 1}
"""
"""An experiment that trains two steps on the embedded digits."""
COMMON = """
trainer: {max_steps: 20, effective_batch: 8, val_every: 5, accelerator: cpu, threads: 1}
optim: {lr: 0.02, milestones: []}
logger: {wandb: false, every: 1}
test: {pictures: 0}
"""
EXPERIMENTS = {
    "classification": """
data: {name: imagefolder, root: folders, val: test, batch_size: 1, image_size: 32}
model: {backbone: {name: resnet10_slim}, deform_layers: 1}
""",
    "segmentation": """
task: segmentation
data: {name: voc, root: shapes, batch_size: 1, val: test}
model: {name: deeplab, head_channels: 16, deform_layers: 1, backbone: {name: resnet10_slim, freeze_norm: true}}
""",
    "detection": """
task: detection
seed: 3  # of few seeds do twenty steps find enough objects for a score
data: {name: voc, root: shapes, batch_size: 1, val: test, protocol: voc}
model:
  name: rfcn
  dilation: 1
  deform_layers: 1
  deform_pooling: true
  head_channels: 16
  backbone: {name: resnet10_slim, freeze_norm: true}
  rpn: {scales: [2, 4], hidden_channels: 16, border: null, candidates: 60, proposals: 20, sampled: 16}
  rois: 8
""",
}
MIXED = (
    EXPERIMENTS["detection"]
    .replace("root: shapes, batch_size: 1", "root: mixed, batch_size: 2")
    .replace("rois: 8", "rois: 8\n  ohem: true")
)
"""Detection with hard example mining, on images of several sizes, two at a time: the larger one pads the other."""
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
SPLITS = {"train": range(16), "test": range(16, 23), "pair": range(16, 18)}


def write_data() -> None:
    """Red and blue squares on noise: as a VOC folder with boxes and labels, and as folders by the square's colour.

    Writes them and the experiment files into the current folder.
    """
    for name, text in EXPERIMENTS.items():
        Path(f"{name}.yaml").write_text(COMMON + text)
    write_shapes(Path("shapes"), [(64, 64)])


def write_shapes(root: Path, sizes: list[tuple[int, int]]) -> None:
    """Write a VOC folder of images that take the sizes, height and width, in turn; squares also into `folders`."""
    random = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("blue\nred\n")
    for split, numbers in SPLITS.items():
        for kind in ("Main", "Segmentation"):
            (root / "ImageSets" / kind / f"{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
    for number in range(23):
        height, width = sizes[number % len(sizes)]
        pixels = random.integers(90, 160, (height, width, 3)).astype(np.uint8)
        label = np.zeros((height, width), np.uint8)
        red, side = number % 2, int(random.integers(20, 40))
        x, y = (int(random.integers(0, 64 - side)) for _ in "xy")
        pixels[y : y + side, x : x + side] = (220, 40, 40) if red else (40, 40, 220)
        label[y : y + side, x : x + side] = 1 + red
        label[:number] = 255  # images differ in how many pixels count
        picture = Image.fromarray(pixels)
        picture.save(root / f"JPEGImages/{number}.jpg")
        Image.fromarray(label).save(root / f"SegmentationClass/{number}.png")
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        box = OBJECT.format("red" if red else "blue", x + 1, y + 1, x + side, y + side)
        (root / f"Annotations/{number}.xml").write_text(f"<annotation>{size}{box}</annotation>")
        for split, numbers in SPLITS.items():
            if number in numbers:
                folder = Path("folders") / split / ("red" if red else "blue")
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{number}.png")
