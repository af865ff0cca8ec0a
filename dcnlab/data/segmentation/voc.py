"""PASCAL VOC segmentation, alone or with the 10,582 training images of SBD's list; any folder in VOC's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnlab.data.image_list import read_lines, read_pairs
from dcnlab.data.labels import (
    IGNORE,
    LabelledImages,
    check_classes,
    check_files,
    counted_lookup,
    ignored_value,
    lookup_of,
    names_of,
    read_label,
)
from dcnlab.data.voc_lists import OBJECTS, listed_classes, read_names, years_of
from dcnlab.io import mat_file
from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.named_files import NamedFiles
from dcnlab.io.paths import inside
from dcnlab.io.text import nearest_and_all, one_line

CLASSES = ("background", *OBJECTS)
"""Class names in the order of their label values; SBD's are the same."""

YEAR = "2012"
"""Of a split without one, where VOCdevkit has that year."""

_AUGMENTED = ("train_aug", "trainaug")
_LISTS = Path("ImageSets/Segmentation")
_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (VOCtrainval_11-May-2012.tar)"
_SBD_SOURCE = "http://home.bharathh.info/pubs/codes/SBD/download.html (benchmark.tgz)"


def voc_pairs(
    root: str | Path, splits: str | Sequence[str], classes: Sequence[str] | None = None, ignore: int | None = None
) -> LabelledImages:
    """Find VOC's images with a segmentation.

    Args:
        root: folder of VOCdevkit, VOCdevkit itself, or one folder in VOC's layout (JPEGImages, SegmentationClass,
            ImageSets/Segmentation/SPLIT.txt).
        splits: such as train or 2012/train, one or several. train_aug is SBD's list: the images that
            ImageSets/Segmentation/trainaug.txt names, with labels in SegmentationClassAug; or, without that file,
            VOC's train and SBD's train and val without VOC's val, SBD being the folder benchmark_RELEASE next to
            one of the folders that root may be.
        classes: class names in the order of the label values from 0 up, background among them; None takes those of
            root/classes.txt, or VOC's 21 without that file.
        ignore: label value of pixels to leave out; None is 255.

    Raises:
        DataError: data are missing or a split is unknown; one line that says what is expected where.
    """
    listed = None if classes is not None else listed_classes(Path(root), ignored_value(ignore))
    pairs = []
    for split in names_of(splits):
        folder, name = _year_folder(Path(root), split)
        pairs += _augmented(folder, name) if name in _AUGMENTED else _listed(folder, name)
    if listed is not None:
        names = list(listed.values())
        lookup = lookup_of({value: label for label, value in enumerate(listed)} | {ignored_value(ignore): IGNORE})
    else:
        names = check_classes(CLASSES if classes is None else classes)
        lookup = counted_lookup(len(names), ignored_value(ignore))
    return LabelledImages(check_files(pairs, Path(root), splits), names, lookup, read_voc_label)


def read_voc_label(path: Path) -> NDArray[np.integer]:
    """Read the values of a label PNG, or of one of SBD's .mat files.

    Raises:
        DataError: it cannot be read; one line that names the file.
    """
    if path.suffix != ".mat":
        return read_label(path)
    try:
        values = mat_file.read_field(read_bytes(path, mat_file.LARGEST), "GTcls", "Segmentation")
        if values.dtype.kind not in "ui":
            raise DataError(f"it holds {values.dtype}, should be whole numbers")
    except (OSError, ValueError, MemoryError) as error:
        reason = one_line(error)
        raise DataError(f"{path} cannot be read as one of SBD's labels ({reason}); replace or remove it") from error
    return values  # type: ignore[return-value]  # of whole numbers, as was asked


def _year_folder(root: Path, split: str) -> tuple[Path, str]:
    """Find the folder of a split's year and the split's name without it."""
    year, slash, name = split.rpartition("/")
    if (root / _LISTS).is_dir():
        if slash and os.path.basename(os.path.abspath(root)) != f"VOC{year}":
            raise DataError(
                f"data.root {root} is one folder, not VOCdevkit: its splits have no year, but {split!r} has"
            )
        return root, name
    years = years_of(root, _LISTS, "VOC*")
    if not years:
        raise DataError(
            f"VOC's segmentations are not in data.root {root}: expected in it VOCdevkit/VOC{YEAR}/JPEGImages, "
            f"SegmentationClass and {_LISTS}/SPLIT.txt, or one such folder; from {_SOURCE}"
        )
    if not slash:
        if YEAR not in years and len(years) > 1:
            raise DataError(
                f"data.root {root} has no year {YEAR}; split {split!r} needs one of {', '.join(years)} before it"
            )
        year = YEAR if YEAR in years else next(iter(years))
    if year not in years:
        raise DataError(
            f"data.root {root} has no year {year!r} with segmentations, as of split {split!r}; "
            f"{nearest_and_all(year, years)}"
        )
    return years[year], name


def _listed(folder: Path, split: str) -> list[tuple[Path, Path]]:
    lists = [path.stem for path in (folder / _LISTS).glob("*.txt")]
    if split not in lists:
        raise DataError(
            f"{folder / _LISTS} has no split {split!r}; {nearest_and_all(split, lists)} ({_AUGMENTED[0]}: SBD)"
        )
    files = _Folder(folder)
    return [(files.image(id), files.label(id)) for id in files.ids(split)]


def _augmented(folder: Path, split: str) -> list[tuple[Path, Path]]:
    files = _Folder(folder)
    for name in _AUGMENTED:
        path = folder / _LISTS / f"{name}.txt"
        if path.is_file():
            lines = [line for _, line in read_lines(path)]
            if any(len(line.split()) > 1 for line in lines) and not all(line in files.images for line in lines):
                # The list that DeepLab's authors gave: image and label in a line, "/" standing for the folder.
                return read_pairs(path, folder, "/")
            files = _Folder(folder, "SegmentationClassAug")
            return [(files.image(id), files.label(id)) for id in files.ids(name)]
    parents = (folder, *folder.absolute().parents[:3])
    sbd_folders = [parent / "benchmark_RELEASE/dataset" for parent in parents]
    sbd = next((path for path in sbd_folders if (path / "cls").is_dir()), None)
    if sbd is None:
        raise DataError(
            f"split {split!r} needs SBD: expected {folder / _LISTS}/trainaug.txt with labels in "
            f"{folder}/SegmentationClassAug, or the folder benchmark_RELEASE next to {folder.name} or above it; "
            f"from {_SBD_SOURCE}"
        )
    known, validated = files.ids("train"), files.ids("val")
    further = dict.fromkeys(id for part in ("train", "val") for id in _ids_of(sbd / f"{part}.txt"))
    pairs = [(files.image(id), files.label(id)) for id in known]
    elsewhere = {*known, *validated}
    pairs += [(files.image(id), sbd / "cls" / f"{id}.mat") for id in further if id not in elsewhere]
    return pairs


class _Folder:
    """Images and labels of one folder in VOC's layout; a file that is missing has VOC's own ending."""

    def __init__(self, folder: Path, labels: str = "SegmentationClass") -> None:
        self.folder = folder
        self.images, self.labels = NamedFiles(folder / "JPEGImages"), NamedFiles(folder / labels, (".png",))

    def image(self, id: str) -> Path:
        return self.images.find(id) or self.images.folder / f"{id}.jpg"

    def label(self, id: str) -> Path:
        return self.labels.find(id) or self.labels.folder / f"{id}.png"

    def ids(self, split: str) -> list[str]:
        path = self.folder / _LISTS / f"{split}.txt"
        return [id for _, id in read_names(path, lambda name: name in self.images)]


def _ids_of(path: Path) -> list[str]:
    lines = read_lines(path)
    for number, line in lines:
        inside(path.parent, line, f"{path} line {number}")
    return [line for _, line in lines]
