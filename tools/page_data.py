"""Tiny data in the place of what the pages' commands take: data sets in each layout, images, detections."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from page_commands import ROOT
from PIL import Image

sys.path.append(str(ROOT / "tests/helpers"))
import own_folders


def _lists(folder: Path, lists: Mapping[str, Sequence[int]], line: str = "photo{0}") -> None:
    """Write NAME.txt files that list images by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line.format(number)}\n" for number in numbers))


def voc(root: Path) -> None:
    """VOC's years 2007 and 2012, with boxes and label maps of its classes 1 and 2."""
    for year in ("VOC2007", "VOC2012"):
        own_folders.voc(root / year, 12)
        own_folders.masks(root / year, 12, images="JPEGImages", labels="SegmentationClass", values=(0, 1, 2))
        shutil.copytree(root / year / "SegmentationClass", root / year / "SegmentationClassAug")  # of train_aug
        _lists(root / year / "ImageSets/Main", {"trainval": range(8), "test": range(8, 12)})
        _lists(root / year / "ImageSets/Segmentation", {"train_aug": range(8), "val": range(8, 12)})
    shutil.copy(root / "VOC2007/classes.txt", root)


def cards(root: Path) -> None:
    """One folder of VOC's form, with its splits."""
    own_folders.voc(root, 20)
    _lists(root / "ImageSets/Main", {"train": range(12), "val": range(12, 15), "test": range(15, 20)})


def coco(root: Path, train: str = "train2017", test: str = "val2017") -> None:
    """COCO's form with two splits."""
    for split, count in ((train, 12), (test, 4)):
        own_folders.coco(root, count, file=f"annotations/instances_{split}.json", images=split)


def yolo(root: Path) -> None:
    """YOLO's form with two splits."""
    for split, count in (("train", 12), ("test", 4)):
        own_folders.yolo(root, count, f"{split}/images", f"{split}/labels")


def camvid(root: Path) -> None:
    """CamVid's lists, with pixels of three of its classes."""
    own_folders.masks(root, 20, labels="labels", values=(1, 3, 8))
    lists = {"train": range(12), "val": range(12, 15), "test": range(15, 20)}
    _lists(root, lists, "images/photo{0}.png labels/photo{0}.png")


def image_list(root: Path) -> None:
    """Lists of images and label PNGs, and the names of the classes."""
    camvid(root)
    (root / "classes.txt").write_text("".join(f"class{value}\n" for value in range(9)))


def cityscapes(root: Path) -> None:
    """Cityscapes' folders, with pixels of road, car and sky."""
    for split in ("train", "val"):
        images, labels = f"leftImg8bit/{split}/ulm", f"gtFine/{split}/ulm"
        own_folders.masks(root, 8, images, labels, values=(7, 26, 23))
        for image in (root / images).iterdir():
            image.rename(image.with_name(f"{image.stem}_leftImg8bit.png"))
        for label in (root / labels).iterdir():
            label.rename(label.with_name(f"{label.stem}_gtFine_labelIds.png"))


def flowers(root: Path) -> None:
    """A folder of images for each class, in two splits."""
    for split, count in (("train", 24), ("test", 6)):
        own_folders.class_folders(root / split, count)


def images(root: Path) -> None:
    """A folder of two images."""
    for number in range(2):
        own_folders.draw(root / f"new{number}.png", "ball")


def image(path: Path) -> None:
    """One image."""
    own_folders.draw(path, "ball")


def label_maps(root: Path) -> None:
    """Label PNGs."""
    root.mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(root / "a.png")


def coco_detections(path: Path) -> None:
    """COCO's JSON of four images, and next to it D.json with their boxes as detections."""
    own_folders.coco(path.parent, 4, file=path.name, images="annotated")
    found = json.loads(path.read_text())["annotations"]
    boxes = [{key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for box in found]
    (path.parent / "D.json").write_text(json.dumps(boxes))


def voc_detections(root: Path) -> None:
    """VOC's years, and next to them D.json with a detection in an image of 2007/test."""
    voc(root)
    box = {"image_id": "photo8", "category": "ball", "bbox": [8, 16, 16, 16], "score": 0.9}
    (root.parent / "D.json").write_text(json.dumps([box]))


DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    r"data\.root=VOC\b": ("VOC", voc),
    r"data\.root=COCO\b": ("COCO", coco),
    r"data\.root=CITYSCAPES\b": ("CITYSCAPES", cityscapes),
    r"data\.root=CAMVID\b": ("CAMVID", camvid),
    r"data\.root=CamVid\b": ("CamVid", camvid),
    r"data\.root=CARDS\b": ("CARDS", cards),
    r"data\.root=FLOWERS\b": ("FLOWERS", flowers),
    r"detection/own data\.root=MINE\b": ("MINE", own_folders.coco),
    r"\bRUN 'test\.shorter_sides": ("MINE", own_folders.coco),  # of the run's data
    r"rfcn_coco data\.root=MINE\b": ("MINE", lambda root: coco(root, "train", "test")),
    r"data\.name=imagelist data\.root=MINE\b": ("MINE", image_list),
    r"data\.name=yolo data\.root=MINE\b": ("MINE", yolo),
    r"\bFOLDER\b": ("FOLDER", images),
    r"\bphoto\.jpg\b": ("photo.jpg", image),
    r"\bDIR\b": ("DIR", label_maps),
    r"instances_val2017\.json": ("instances_val2017.json", coco_detections),
    r"\bVOCdevkit\b": ("VOCdevkit", voc_detections),
}
"""What commands of a pattern take: its name in the page's folder, and the function that writes it."""


def write_data(command: str, folder: Path) -> None:
    """Write the data that a command takes into the page's folder, in the place of what had their name."""
    for pattern, (name, write) in DATA.items():
        if re.search(pattern, command):
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            write(path)
