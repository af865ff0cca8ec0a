"""Memory that a loader process takes while it goes through a data set of COCO's size; a program that prints it."""

import gc
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dcnlab.data.detection import split as detection_split
from dcnlab.data.detection.annotations import Annotations, starts
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.photographs import strings

IMAGES, BOXES = 118_287, 860_001
"""Of COCO's train2017."""


def annotations():
    """Boxes of as many images as COCO has."""
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 8, (BOXES, 4))
    boxes[:, 2:] += boxes[:, :2] + 1
    counts = np.bincount(random.integers(0, IMAGES, BOXES), minlength=IMAGES)
    return Annotations(
        root=Path("nowhere"),
        classes=tuple(f"class {number}" for number in range(80)),
        files=strings([f"train2017/{number:012}.jpg" for number in range(IMAGES)]),
        image_ids=np.arange(IMAGES),
        sizes=np.full((IMAGES, 2), 24),
        offsets=starts(counts),
        boxes=boxes,
        labels=random.integers(1, 81, BOXES),
        areas=np.ones(BOXES),
        difficult=np.zeros(BOXES, np.bool_),
        crowd=np.zeros(BOXES, np.bool_),
        category_ids=np.arange(1, 81),
    )


class Some(Dataset):
    """Every n-th image of a data set: often enough to come by each page of its memory."""

    def __init__(self, whole, step):
        self.whole, self.step = whole, step

    def __len__(self):
        return len(self.whole) // self.step

    def __getitem__(self, index):
        return self.whole[self.step * index]


class Objects(Dataset):
    """What many data sets are: a list with a dictionary of lists for each image."""

    def __init__(self, count):
        self.entries = [
            {"name": f"{number:012}.jpg", "box": [number + at / 8 for at in range(4)]} for number in range(count)
        ]

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return [self.entries[index]["name"], *self.entries[index]["box"]]


def private_memory(items):
    """Bytes that no other process shares with the one that loads a batch, for a collate function."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", text, re.M)))


def growth(dataset):
    """Bytes by which a loader process grows from its second batch to its last."""
    gc.collect()
    gc.freeze()  # or a collection, whose moment is chance, would write to each object of this program
    loader = DataLoader(
        dataset, len(dataset) // 32, num_workers=1, collate_fn=private_memory, multiprocessing_context="fork"
    )
    _, second, *_, last = loader
    return last - second


def main():
    """Print the bytes of the arrays, how much the loader of them grows, and how much one of Python objects."""
    detection_split.read_photograph = lambda path, height, width, *_: Image.new("RGB", (width, height))
    split = DetectionSplit(annotations(), shorter_side=16)
    values = (*vars(split).values(), *vars(split.annotations).values())
    held = sum(value.nbytes for value in values if hasattr(value, "nbytes"))
    print(json.dumps([held, growth(Some(split, 32)), growth(Objects(IMAGES))]))


if __name__ == "__main__":
    main()
