"""Finds images with label pictures: VOC's folders, Cityscapes', lists of pairs, or two folders of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcnlab.data.image_list import CLASSES_FILE, read_lines
from dcnlab.data.own.folders import IMAGE_FOLDERS, first_folder, holds, split_folders, voc_year
from dcnlab.data.own.splits import WHOLE, role_of
from dcnlab.io.errors import DataError
from dcnlab.io.named_files import NamedFiles

LABEL_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Of label pictures, without those of formats that change values."""

_LABEL_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "SegmentationClass", "gt", "ground_truth"),
    *("segmentations", "segmentation", "Masks", "Labels", "annots"),
)
_ADDED = ("", "_mask", "_label", "_labels", "_gt", "_seg", "_L", "-mask", "-label")
"""What a label's name may have after its image's."""


@dataclass(frozen=True)
class MaskFolders:
    """Where images and labels lie, by split, or lists of pairs."""

    folders: dict[str, tuple[Path, Path]]
    """Of each split, the folder of the images and that of the labels."""
    lists: dict[str, Path]
    """Lists of the images of each split; empty: the folders are the splits."""


def find_cityscapes(root: Path) -> MaskFolders | None:
    """Find Cityscapes' folders; None: there are none."""
    splits = {folder.name: (folder, root / "gtFine" / folder.name) for folder in split_folders(root / "leftImg8bit")}
    splits = {name: pair for name, pair in splits.items() if pair[1].is_dir()}
    return MaskFolders(splits, {}) if splits else None


def find_voc_masks(root: Path) -> MaskFolders | None:
    """Find VOC's folders of images and labels; None: there are none."""
    base = voc_year(root)
    images, labels = base / "JPEGImages", base / "SegmentationClass"
    if not (holds(images) and holds(labels, LABEL_ENDINGS)):
        return None
    lists = sorted((base / "ImageSets" / "Segmentation").glob("*.txt"))
    return MaskFolders({WHOLE: (images, labels)}, {path.stem: path for path in lists})


def find_lists(root: Path) -> MaskFolders | None:
    """Find lists whose lines name an image and a label; None: there are none."""
    lists = {path.stem: path for path in sorted(root.glob("*.txt")) if role_of(path.stem) is not None}
    lists = {name: path for name, path in lists.items() if path.name != CLASSES_FILE and _names_pairs(path)}
    return MaskFolders({}, lists) if lists else None


def _names_pairs(path: Path) -> bool:
    try:
        lines = read_lines(path)
    except DataError:
        return False
    separator = next((mark for mark in "\t," if lines and mark in lines[0][1]), None)
    return bool(lines) and len(lines[0][1].split(separator)) == 2


def find_masks(root: Path) -> MaskFolders | None:
    """Find a folder of images and one of labels of the same names; None: there are none."""
    images, labels = first_folder(root, IMAGE_FOLDERS), first_folder(root, _LABEL_FOLDERS)
    pairs: dict[str, tuple[Path, Path]] = {}
    if images is not None and labels is not None:
        pairs = {folder.name: (folder, labels / folder.name) for folder in split_folders(images)}
    if not _usable(pairs):
        for folder in split_folders(root):
            inner = first_folder(folder, IMAGE_FOLDERS), first_folder(folder, _LABEL_FOLDERS)
            if inner[0] is not None and inner[1] is not None:
                pairs[folder.name] = (inner[0], inner[1])
    if not _usable(pairs) and images is not None and labels is not None:
        pairs = {WHOLE: (images, labels)}
    usable = _usable(pairs)
    return MaskFolders(usable, {}) if usable else None


def _usable(pairs: dict[str, tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
    return {name: pair for name, pair in pairs.items() if holds(pair[0]) and holds(pair[1], LABEL_ENDINGS)}


def pairs_of(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Images of a folder with their labels, by name; images without a label are left out.

    Raises:
        DataError: no label is named like an image; one line.
    """
    files, masks = NamedFiles(images), NamedFiles(labels, LABEL_ENDINGS)
    pairs = []
    for name in files.names():
        label = next((path for added in _ADDED if (path := masks.find(f"{name}{added}")) is not None), None)
        image = files.find(name)
        if label is not None and image is not None:
            pairs.append((image, label))
    if not pairs:
        raise DataError(f"no picture in {labels} is named like an image of {images}")
    return pairs
