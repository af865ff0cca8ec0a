"""Boxes of VOC, of several years joined, and of any folder laid out as one year of VOC is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dcnlab.data.detection.annotations import Annotations, check_class, check_names, starts
from dcnlab.data.image_list import read_lines
from dcnlab.data.photographs import strings
from dcnlab.data.voc_lists import read_names
from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.image_file import NamedFiles, image_size
from dcnlab.io.orientation import Orientation
from dcnlab.io.text import nearest_and_all, one_line, shown

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's own, in the order of their labels from 1."""

CLASSES_FILE = "classes.txt"
"""In the root: a class a line, where the classes are not VOC's."""

LARGEST_XML = 16 * 2**20
"""Bytes; VOC's largest has 30 thousand."""

_OVERHANG = 1.0  # pixels: some tools count from 0, others round up
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


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
        classes: class names in the order of their labels; objects of others are left out. Null takes those of
            root/classes.txt, VOC's twenty where there is no such file.
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
        size, objects = _read_xml(path, picture, orientation)
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
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    if devkit.is_dir():
        found = sorted(path for path in devkit.iterdir() if (path / "Annotations").is_dir())
        if found:
            return {path.name.removeprefix("VOC"): path for path in found}
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
        found = sorted(path.stem for path in (year / "Annotations").glob("*.xml"))
        if not found:
            raise DataError(f"{year / 'Annotations'} holds no .xml file")
        return [_Listed(year, stem, str(year / "Annotations")) for stem in found]
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
    """Find the names an object may have, and say whose they are."""
    if classes is not None:
        check_names(classes, "data.classes")
    for folder in dict.fromkeys((root, *years.values())):
        path = folder / CLASSES_FILE
        if path.is_file():
            known = [line for _, line in read_lines(path)]
            check_names(known, str(path))
            for name in classes or ():
                check_class(name, known, "data.classes", str(path))
            return known, str(path)
    if classes is None or set(classes) <= set(VOC_CLASSES):
        return VOC_CLASSES, "VOC's twenty"
    return classes, "data.classes"


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, hence every entity, before the parser expands one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("it declares a document type (DOCTYPE); annotations need none, and entities are not expanded")


def _read_xml(
    path: Path, picture: Path, orientation: Orientation
) -> tuple[tuple[int, int], list[tuple[str, list[float], bool]]]:
    """Read height and width of an image, and its objects: name, box from 0, difficult or not."""
    try:
        content = read_bytes(path, LARGEST_XML)
    except OSError as error:
        raise DataError(f"{path} cannot be read as an annotation ({error.strerror}); {picture} needs it") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as an annotation ({error})") from error
    try:
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError, MemoryError) as error:
        # LookupError: an encoding nobody knows.
        raise DataError(f"{path} cannot be read as XML ({one_line(error)})") from error
    if tree.tag != "annotation":
        raise DataError(f"{path} begins with <{shown(tree.tag)}>, should be <annotation>")
    size = _size(tree, path, picture, orientation)
    return size, [_object(node, f"{path} object {n}", size) for n, node in enumerate(tree.findall("object"), 1)]


def _size(tree: ElementTree.Element, path: Path, picture: Path, orientation: Orientation) -> tuple[int, int]:
    """Height and width, from the file or, where it does not know them, from the image's head."""
    node = tree.find("size")
    height, width = (0.0, 0.0) if node is None else (_number(node, tag, str(path)) for tag in ("height", "width"))
    if height == 0 and width == 0:
        try:
            return image_size(picture, orientation)
        except ValueError as error:
            raise DataError(f"{path} has no size, and its image cannot tell: {error}") from error
    for tag, value in (("height", height), ("width", width)):
        if not 1 <= value <= 1e6 or value != int(value):
            raise DataError(f"{path} has the {tag} {value:g}, should be whole pixels from 1 to 1000000")
    return int(height), int(width)


def _object(node: ElementTree.Element, source: str, size: tuple[int, int]) -> tuple[str, list[float], bool]:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{source} has no <name>")
    corners = node.find("bndbox")
    if corners is None:
        raise DataError(f"{source} has no <bndbox>")
    x1, y1, x2, y2 = (_number(corners, tag, source) for tag in _CORNERS)
    said = f"{source} has the box xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}"
    if x2 < x1 or y2 < y1:
        raise DataError(f"{said}; needs xmin <= xmax and ymin <= ymax")
    height, width = size
    if min(x1, y1) < 1 - _OVERHANG or x2 > width + _OVERHANG or y2 > height + _OVERHANG:
        raise DataError(f"{said}, which leaves the image of width {width} and height {height}; pixels count from 1")
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DataError(f"{source} has the <difficult> {shown(difficult)}, should be 0 or 1")
    return name, [x1 - 1, y1 - 1, x2, y2], difficult == "1"


def _number(node: ElementTree.Element, tag: str, source: str) -> float:
    text = node.findtext(tag)
    try:
        value = float("" if text is None else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{source} has the <{tag}> {shown(text)}, should be a number")
    return value
