"""Finds and reads boxes in VOC's XML, with lists of splits, with a folder for each split, or without splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnlab.data.detection.annotations import Annotations, check_class, check_names
from dcnlab.data.detection.voc import CLASSES_FILE
from dcnlab.data.detection.voc_xml import read_xml
from dcnlab.data.image_list import read_lines
from dcnlab.data.own.boxes import BoxedImage, annotations_of, class_names
from dcnlab.data.own.folders import IMAGE_FOLDERS, first_folder, holds, split_folders, voc_year
from dcnlab.data.own.splits import WHOLE
from dcnlab.data.voc_lists import read_names
from dcnlab.io.errors import DataError
from dcnlab.io.named_files import NamedFiles
from dcnlab.io.orientation import Orientation

_XML = (".xml",)


@dataclass(frozen=True)
class VocFolders:
    """Where XML and images lie, by split."""

    folders: dict[str, tuple[Path, Path]]
    """Of each split, the folder of the XML and that of the images."""
    lists: dict[str, Path]
    """Lists of the images of each split; empty: the folders are the splits."""


def find_voc(root: Path) -> VocFolders | None:
    """Find XML and images in a folder; None: there is none."""
    base = voc_year(root)
    pair = _pair(base)
    if pair is not None:
        sets = base / "ImageSets" / "Main"
        return VocFolders({WHOLE: pair}, {path.stem: path for path in sorted(sets.glob("*.txt"))})
    pairs = {folder.name: _pair(folder) for folder in split_folders(base)}
    known = {name: pair for name, pair in pairs.items() if pair is not None}
    return VocFolders(known, {}) if known else None


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folder of XML and that of images; None: no XML."""
    inner = first_folder(folder, ("Annotations", "annotations", "xml", "xmls"))
    annotations = next((path for path in (inner, folder) if path is not None and holds(path, _XML)), None)
    return None if annotations is None else (annotations, first_folder(folder, IMAGE_FOLDERS) or folder)


def read_voc_folders(
    root: Path, found: VocFolders, classes: Sequence[str] | None, orientation: Orientation
) -> dict[str, Annotations]:
    """Read all annotations of a folder by split.

    Args:
        root: of the folder.
        found: by `find_voc`.
        classes: names in the order of their labels; None takes those of classes.txt, or else all that the files name.
        orientation: says which images are turned, for annotations that state no size.

    Raises:
        DataError: a file is missing or not right; one line.
    """
    images: dict[str, list[BoxedImage]] = {}
    for split, (folder, pictures) in found.folders.items():
        files, known = NamedFiles(pictures), NamedFiles(folder, _XML)
        lists = {name: _stems(path, known) for name, path in found.lists.items()} or {split: known.names()}
        stems = dict.fromkeys(stem for names in lists.values() for stem in names)
        read = {stem: _image(root, folder / f"{stem}.xml", files, stem, orientation) for stem in stems}
        images |= {name: [read[stem] for stem in names] for name, names in lists.items()}
    everything = [image for chosen in images.values() for image in chosen]
    names = list(classes) if classes is not None else _classes(root, everything)
    return {split: annotations_of(root, chosen, names) for split, chosen in images.items()}


def _stems(path: Path, known: NamedFiles) -> list[str]:
    return [stem for _, stem in read_names(path, lambda stem: stem in known)]


def _image(root: Path, path: Path, files: NamedFiles, name: str, orientation: Orientation) -> BoxedImage:
    picture = files.find(name)
    if picture is None:
        raise DataError(f"{files.folder / name}, the image of {path}, is missing")
    size, objects = read_xml(path, picture, orientation)
    return BoxedImage(picture.relative_to(root).as_posix(), size, objects)


def _classes(root: Path, images: Sequence[BoxedImage]) -> list[str]:
    seen, path = class_names(images), next(iter(sorted(root.glob(f"**/{CLASSES_FILE}"))), None)
    if path is None:
        check_names(seen, f"the XML of {root}")
        return seen
    known = [line for _, line in read_lines(path)]
    check_names(known, str(path))
    for name in seen:
        check_class(name, known, f"the XML of {root}", str(path))
    return known
