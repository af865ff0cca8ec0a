"""Reads the boxes of VOC, of several years joined, and of any folder laid out like one year of VOC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcnlab.data.detection.annotations import Annotations, check_class, check_names, starts
from dcnlab.data.detection.voc_xml import read_xml
from dcnlab.data.image_list import CLASSES_FILE
from dcnlab.data.photographs import strings
from dcnlab.data.voc_lists import OBJECTS, listed_objects, read_names, years_of
from dcnlab.io.errors import DataError
from dcnlab.io.named_files import NamedFiles
from dcnlab.io.orientation import Orientation
from dcnlab.io.text import nearest_and_all

VOC_CLASSES = OBJECTS
"""VOC's own, in the order of their labels from 1."""

"""In the root: a class a line, where the classes are not VOC's."""


def read_voc(
    root: str | Path,
    splits: str | Sequence[str] | None,
    classes: Sequence[str] | None = None,
    images: bool = True,
    orientation: Orientation | None = None,
) -> Annotations:
    """Read the boxes of one split or of several joined.

    VOC's xmin, ymin, xmax, ymax count pixels from 1 and include the last: they become xmin - 1, ymin - 1, xmax, ymax.

    Args:
        root: folder that holds VOCdevkit; VOCdevkit itself; or one VOC-style folder, with Annotations, JPEGImages and
            ImageSets/Main/SPLIT.txt.
        splits: `train`, or `2007/trainval` where there are several years, one or a list; None takes every annotation
            of a VOC-style folder.
        classes: class names in the order of their labels; objects of others are left out. None takes those of
            root/classes.txt, or VOC's twenty without that file.
        images: whether the images must be there; scoring does without.
        orientation: says which images are turned, for annotations that state no size; None is `auto`.

    Raises:
        DataError: a file is missing or not right; one line with the file, the value and the rule.
    """
    folder, orientation = Path(root), orientation or Orientation()
    years = _years(folder)
    pictures = {year: NamedFiles(year / "JPEGImages") for year in years.values()}
    listed = [image for split in _each(splits) for image in _listed(folder, years, split, pictures)]
    seen: dict[tuple[Path, str], str] = {}
    for image in listed:
        if (image.year, image.name) in seen:
            raise DataError(f"{image.source} names {image.name} again, after {seen[image.year, image.name]}")
        seen[image.year, image.name] = image.source
    known, whose = _known_classes(folder, years, classes)
    chosen = list(known if classes is None else classes)
    label_of = {name: label for label, name in enumerate(chosen, 1)}
    files, sizes, counts, boxes, labels, difficult = [], [], [], [], [], []
    for image in listed:
        path = image.year / "Annotations" / f"{image.name}.xml"
        picture = pictures[image.year].find(image.name)
        if picture is None:
            picture = image.year / "JPEGImages" / f"{image.name}.jpg"
            if images:
                raise DataError(f"{picture}, the image of {path}, is missing; {image.source} names it")
        size, objects = read_xml(path, picture, orientation)
        count = 0
        for number, (name, box, is_difficult) in enumerate(objects, 1):
            check_class(name, known, f"{path} object {number}", whose, "; data.classes or classes.txt lists others")
            if name in label_of:
                boxes.append(box)
                labels.append(label_of[name])
                difficult.append(is_difficult)
                count += 1
        files.append(picture.relative_to(folder).as_posix())
        sizes.append(size)
        counts.append(count)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Annotations(
        root=folder,
        classes=tuple(chosen),
        files=strings(files),
        image_ids=strings([image.name for image in listed]),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        offsets=starts(np.array(counts, np.int64)),
        boxes=corners,
        labels=np.array(labels, np.int64),
        areas=(corners[:, 2:] - corners[:, :2]).prod(1),
        difficult=np.array(difficult, np.bool_),
        crowd=np.zeros(len(corners), np.bool_),
        category_ids=np.arange(1, len(chosen) + 1),
        by_name=True,
    )


@dataclass(frozen=True)
class _Listed:
    """One image of a split: its VOC-style folder, its name, and where it is named."""

    year: Path
    name: str
    source: str


def _each(splits: str | Sequence[str] | None) -> list[str | None]:
    return [splits] if splits is None or isinstance(splits, str) else list(splits)


def _years(root: Path) -> dict[str, Path]:
    """Find the VOC-style folders by year; one folder alone goes by its own name."""
    if (root / "Annotations").is_dir():
        return {root.resolve().name.removeprefix("VOC"): root}
    if years := years_of(root, "Annotations"):
        return years
    what = "holds no Annotations" if root.is_dir() else "is not a folder"
    raise DataError(
        f"data.root {root} {what}; expected the folder of VOCdevkit, or one of Annotations, JPEGImages and ImageSets "
        "(VOC 2007 and 2012: host.robots.ox.ac.uk/pascal/VOC)"
    )


def _listed(root: Path, years: dict[str, Path], split: str | None, pictures: dict[Path, NamedFiles]) -> list[_Listed]:
    """List the images of a split; None: all that have annotations."""
    number, _, name = ("", "", split) if split is None else split.rpartition("/")
    number = number.removeprefix("VOC")
    if not number and len(years) > 1:
        forms = ", ".join(f"{year}/{'trainval' if name is None or name in years else name}" for year in years)
        what = f"no split of {root} is named" if split is None else f"split {split!r} of {root} names no year"
        raise DataError(f"{what}, which holds {len(years)} years; say one of {forms}")
    if number and number not in years:
        raise DataError(f"split {split!r} is of a year that data.root {root} lacks; {nearest_and_all(number, years)}")
    year = years[number] if number else next(iter(years.values()))
    if name is None:
        stems = sorted(path.stem for path in (year / "Annotations").glob("*.xml"))
        if not stems:
            raise DataError(f"{year / 'Annotations'} holds no .xml file")
        return [_Listed(year, stem, str(year / "Annotations")) for stem in stems]
    path = year / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        lists = [entry.stem for entry in path.parent.glob("*.txt")]
        raise DataError(f"{path}, the list of split {split!r}, is missing; {nearest_and_all(name, lists)}")
    annotated = NamedFiles(year / "Annotations", (".xml",))
    lines = read_names(path, lambda stem: stem in annotated or stem in pictures[year])
    images = [_Listed(year, stem, f"{path} line {line_number}") for line_number, stem in lines]
    if not images:
        raise DataError(f"{path} names no image")
    return images


def _known_classes(root: Path, years: dict[str, Path], classes: Sequence[str] | None) -> tuple[Sequence[str], str]:
    """Find the names an object may have, and where they are listed."""
    if classes is not None:
        check_names(classes, "data.classes")
    for folder in dict.fromkeys((root, *years.values())):
        path = folder / CLASSES_FILE
        if path.is_file():
            known = listed_objects(path)
            check_names(known, str(path))
            for name in classes or ():
                check_class(name, known, "data.classes", str(path))
            return known, str(path)
    if classes is None or set(classes) <= set(VOC_CLASSES):
        return VOC_CLASSES, "VOC's twenty"
    return classes, "data.classes"
