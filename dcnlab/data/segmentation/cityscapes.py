"""Cityscapes, fine annotations: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png.

The images may have other endings, such as .jpg.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcnlab.data.labels import IGNORE, LabelledImages, check_files, choose_classes, lookup_of, names_of
from dcnlab.io.errors import DataError
from dcnlab.io.named_files import NamedFiles
from dcnlab.io.text import nearest_and_all

VALUES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that are scored, in the order of their train ids, and their values in labelIds files."""

_LABEL_IDS = range(34)  # the rest of them, such as parking and caravan, are ignored
_SOURCE = "https://www.cityscapes-dataset.com/downloads (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)"
_IMAGE, _LABEL, _TRAIN_LABEL = "_leftImg8bit", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def cityscapes_pairs(
    root: str | Path, splits: str | Sequence[str], classes: Sequence[str] | None = None, ignore: int | None = None
) -> LabelledImages:
    """Find Cityscapes' images, with labelIds, or labelTrainIds where a split has no labelIds at all.

    Args:
        root: folder of leftImg8bit and gtFine.
        splits: train, val or any other folder of leftImg8bit, one or several.
        classes: names out of VALUES in the order of their labels, pixels of the others ignored; None takes all 19.
        ignore: None; which values are ignored is part of the data set.

    Raises:
        DataError: data are missing or a class is unknown; one line that says what is expected where.
    """
    folder = Path(root)
    if ignore not in (None, IGNORE):
        raise DataError(f"data.ignore is {ignore}, but Cityscapes has its own table of ignored values; leave it null")
    for part in ("leftImg8bit", "gtFine"):
        if not (folder / part).is_dir():
            raise DataError(
                f"Cityscapes is not in data.root {folder}: expected leftImg8bit/SPLIT/CITY/*{_IMAGE}.png and "
                f"gtFine/SPLIT/CITY/*{_LABEL}, but {folder / part} is missing; from {_SOURCE}"
            )
    images = [image for name in names_of(splits) for image in _images(folder, name)]
    suffix = _LABEL if any(_label(folder, image, _LABEL).is_file() for image in images) else _TRAIN_LABEL
    labels = choose_classes(classes, list(VALUES), "Cityscapes")
    if suffix == _LABEL:
        table = dict.fromkeys(_LABEL_IDS, IGNORE) | {VALUES[name]: label for name, label in labels.items()}
    else:
        table = {value: labels.get(name, IGNORE) for value, name in enumerate(VALUES)}
    pairs = [(image, _label(folder, image, suffix)) for image in images]
    return LabelledImages(
        check_files(pairs, folder, splits),
        list(labels),
        lookup_of(table | {IGNORE: IGNORE}),
    )


def _images(folder: Path, split: str) -> list[Path]:
    splits = sorted(entry.name for entry in (folder / "leftImg8bit").iterdir() if entry.is_dir())
    if split not in splits:
        raise DataError(f"{folder}/leftImg8bit has no split {split!r}; {nearest_and_all(split, splits)}")
    cities = sorted(path for path in (folder / "leftImg8bit" / split).iterdir() if path.is_dir())
    listed = [(files, name) for files in map(NamedFiles, cities) for name in files.names() if name.endswith(_IMAGE)]
    images = [path for files, name in listed if (path := files.find(name))]
    if not images:
        raise DataError(f"{folder}/leftImg8bit/{split} holds no CITY/*{_IMAGE}.png; from {_SOURCE}")
    return images


def _label(folder: Path, image: Path, suffix: str) -> Path:
    split, city = image.parts[-3:-1]
    return folder / "gtFine" / split / city / (image.stem.removesuffix(_IMAGE) + suffix)
