"""Data sets of COCO's size: memory that opening takes, and that loader processes do not take again."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import environment
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection import split as detection_split
from dcnlab.data.detection.annotations import Annotations, starts
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.photographs import strings
from dcnlab.data.segmentation.split import SegmentationSplit

IMAGES, BOXES = 118_287, 860_001
"""Of COCO's train2017."""

MEASURED = Path("/proc/self/smaps_rollup").exists()

# The child reads and says its processor seconds and its largest memory; nothing of the test's own is in it.
OPEN = r"""
import json, re, time
from pathlib import Path
from dcnlab.data.detection.coco import read_coco
begun = time.process_time()
data = read_coco(".", "train")
seconds = time.process_time() - begun
# Of this program alone: getrusage counts the process that it was forked from as well.
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([len(data), len(data.boxes), seconds, peak]))
"""


@pytest.mark.slow
def test_a_coco_sized_file_loads_within_2_gib(tmp_path):
    """As many images and boxes as COCO train2017."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    for number in range(IMAGES):
        (tmp_path / f"train/{number:012}.jpg").touch()
    with open(tmp_path / "annotations/instances_train.json", "w") as file:
        categories = ", ".join(f'{{"id": {number}, "name": "class {number}"}}' for number in range(1, 81))
        file.write(f'{{"categories": [{categories}], "images": [')
        for number in range(IMAGES):
            file.write(
                f'{", " * (number > 0)}{{"license": 3, "file_name": "{number:012}.jpg", "height": 480, "width": 640'
            )
            file.write(f', "date_captured": "2013-11-14 11:18:45", "id": {number}}}')
        file.write('], "annotations": [')
        for number in range(BOXES):
            x, y = number % 311 + 0.25, number % 197 + 0.75
            outline = f"[[{x}, {y}, {x + 40.5}, {y}, {x + 40.5}, {y + 30.25}, {x + 10}, {y + 35.5}, {x}, {y + 30.25}]]"
            file.write(
                f'{", " * (number > 0)}{{"segmentation": {outline}, "area": 1225.125, "iscrowd": 0, "image_id": '
            )
            file.write(
                f'{number % IMAGES}, "bbox": [{x}, {y}, 40.5, 35.5], "category_id": {number % 80 + 1}, "id": {number}}}'
            )
        file.write("]}")
    done = subprocess.run(
        [sys.executable, "-c", OPEN], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    images, boxes, seconds, peak = json.loads(done.stdout)
    assert (images, boxes) == (IMAGES, BOXES)
    assert peak < 2 * 2**30
    assert seconds < 60  # a guard; it takes about 8, which benchmarks/under_load.py measures


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
    """The process that loaded a batch, and the bytes that are its own, for a collate function."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", text, re.M)))
    worker = torch.utils.data.get_worker_info()
    return (-1 if worker is None else worker.id), 1024 * kilobytes


def growth(dataset):
    """By how much each of four loader processes grows from its second batch to its last."""
    seen = {}
    loader = DataLoader(
        dataset,
        len(dataset) // 32,
        num_workers=4,
        collate_fn=private_memory,
        multiprocessing_context="fork",
        shuffle=False,
    )
    for worker, own in loader:
        seen.setdefault(worker, []).append(own)
    assert sorted(seen) == [0, 1, 2, 3]
    return [sizes[-1] - sizes[1] for sizes in seen.values()]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.skipif(not MEASURED, reason="needs Linux's /proc/self/smaps_rollup")
def test_loader_workers_do_not_copy_the_annotations(monkeypatch):
    """Python objects are copied when counted; arrays stay shared with the parent."""
    monkeypatch.setattr(
        detection_split, "read_photograph", lambda path, height, width, *_: Image.new("RGB", (width, height))
    )
    split = DetectionSplit(annotations(), shorter_side=16)
    held = sum(
        value.nbytes for value in (*vars(split).values(), *vars(split.annotations).values()) if hasattr(value, "nbytes")
    )
    assert held > 70e6
    assert max(growth(Some(split, 32))) < 4e6
    # What the measurement would show of Python's own objects, whose counts of references are written to.
    assert min(growth(Objects(IMAGES))) > 5e6


def test_data_sets_hold_arrays_not_one_object_per_image(tmp_path):
    """Python objects would be copied in each loader worker."""
    (tmp_path / "train/cat").mkdir(parents=True)
    for number in range(300):
        (tmp_path / f"train/cat/{number}.png").touch()
    pairs = [(tmp_path / f"{number}.jpg", tmp_path / f"{number}.png") for number in range(300)]
    few = annotations()
    for split in (ImageFolderSplit(tmp_path, "train"), SegmentationSplit(pairs, ["a", "b"]), DetectionSplit(few)):
        assert len(split) >= 300
        for holder in (split, getattr(split, "annotations", split)):
            for name, value in vars(holder).items():
                assert not isinstance(value, list | tuple | dict | set) or len(value) < 100, name
                assert not isinstance(value, np.ndarray) or value.dtype != object, name
