"""Boxes of COCO, and of any data set in COCO's JSON."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dcnlab.data.detection.annotations import Annotations, check_class, check_names, join, starts, strings
from dcnlab.data.labels import names_of
from dcnlab.io import json_file
from dcnlab.io.errors import DataError
from dcnlab.io.gc_paused import no_collector
from dcnlab.io.ids import alike, column, in_order, is_id, nearest_id
from dcnlab.io.paths import check_relative, inside
from dcnlab.io.text import shown

ANNOTATIONS = "annotations/instances_{split}.json"
"""COCO's own layout: where a split's file is, relative to the root."""

IMAGES = ("{split}", "images/{split}", "images", "JPEGImages")
"""Where a split's images are looked for, relative to the root: the first folder that exists."""


def read_coco(
    root: str | Path,
    splits: str | Sequence[str],
    classes: Sequence[str] | None = None,
    annotations: str | None = None,
    images: str | None = None,
) -> Annotations:
    """Read the boxes of one split or of several joined.

    Args:
        root: folder of the data set.
        splits: what stands for {split} in the templates, one or a list.
        classes: class names in the order of their labels; boxes of others are left out. Null takes the file's
            categories in the order of their ids, which may have gaps.
        annotations: template of the JSON files' path, relative to the root; None is annotations/instances_{split}.json.
        images: template of the images' folder, relative to the root; None takes the first of {split}, images/{split},
            images and JPEGImages that exists.

    Raises:
        DataError: a file is missing or not right; one line with the file, the entry's id, the value and the rule.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"data.root {folder} is not a folder; expected COCO's, with annotations (cocodataset.org)")
    parts: list[Annotations] = []
    for split in names_of(splits):
        name = (ANNOTATIONS if annotations is None else annotations).replace("{split}", split)
        path = inside(folder, name, f"data.annotations, of split {split!r},")
        part = read_json(path, folder, _image_folder(folder, split, images), classes)
        if parts and (part.classes, part.category_ids.tolist()) != (parts[0].classes, parts[0].category_ids.tolist()):
            raise DataError(
                f"{path} has other categories than the file of {names_of(splits)[0]!r}; joined splits share them"
            )
        parts.append(part)
    return join(parts)


def read_json(path: Path, root: Path, images: Path, classes: Sequence[str] | None = None) -> Annotations:
    """Read one file in COCO's form; without `annotations`, as COCO's own test files are, no image has a box.

    Args:
        path: of the file.
        root: folder that the files of the result are relative to.
        images: folder, inside the root, that `file_name` is relative to.
        classes: see `read_coco`.

    Raises:
        DataError: the file, or an image it names, is missing or not right; one line.
    """
    content = {"annotations": [], **_load(path)}
    names, category_ids, label_of = _categories(_entries(content, "categories", path), path, classes)
    files, image_ids, sizes = _images(_entries(content, "images", path), path, root, images)
    index_of = {number: index for index, number in enumerate(image_ids)}
    boxes, areas, owners, labels, crowd = array("d"), array("d"), array("q"), array("q"), array("b")
    for position, entry in enumerate(_entries(content, "annotations", path)):
        try:
            label = label_of[entry["category_id"]]
            owner = index_of[entry["image_id"]]
            x, y, width, height = entry["bbox"]
            box = array("d", (x, y, width, height))
            is_crowd = entry.get("iscrowd", 0)
            area = float(entry.get("area", width * height))
            right = (
                width >= 0 and height >= 0 and is_crowd in (0, 1) and math.isfinite(sum(box)) and math.isfinite(area)
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            right = False
        if not right:
            raise _wrong(entry, position, path, index_of, label_of)
        if label:
            boxes.extend(box)
            owners.append(owner)
            labels.append(label)
            areas.append(area)
            crowd.append(int(is_crowd))
    del content
    whose = np.array(owners, np.int64)
    order = np.argsort(whose, kind="stable")
    corners = np.array(boxes, np.float64).reshape(-1, 4)[order]
    corners[:, 2:] += corners[:, :2]
    return Annotations(
        root=root,
        classes=tuple(names),
        files=strings(files),
        image_ids=column(image_ids),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        offsets=starts(np.bincount(whose, minlength=len(files))),
        boxes=corners,
        labels=np.array(labels, np.int64)[order],
        areas=np.array(areas, np.float64)[order],
        difficult=np.zeros(len(corners), np.bool_),
        crowd=np.array(crowd, np.bool_)[order],
        category_ids=column(category_ids),
    )


def _image_folder(root: Path, split: str, template: str | None) -> Path:
    tried = [form.replace("{split}", split) for form in (IMAGES if template is None else (template,))]
    for name in tried:
        check_relative(name, f"data.images, of split {split!r},")
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root {root} has no folder {' or '.join(tried)} of images; data.images names another")


def _without_masks(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _load(path: Path) -> dict[str, Any]:
    """Parse the file; masks, four fifths of COCO's memory, are let go entry by entry."""
    try:
        with no_collector():
            content = json_file.load(path, finish=_without_masks)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); data.annotations names another") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {shown(type(content).__name__)}, should be an object in COCO's form")
    return content


def _entries(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.pop(name, None)
    if not isinstance(entries, list) or not all(type(entry) is dict for entry in entries):
        raise DataError(f"{path} has no list of objects {name!r}; COCO's form has images, annotations and categories")
    return entries


def _categories(
    entries: list[dict[str, Any]], path: Path, classes: Sequence[str] | None
) -> tuple[list[str], list[Any], dict[Any, int]]:
    """Names and ids of the classes in the order of their labels, and every id's label, 0 where it is not chosen."""
    id_of: dict[str, Any] = {}
    taken: set[Any] = set()
    for position, entry in enumerate(entries):
        number, name = _id(entry, "category", position, path), entry.get("name")
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise DataError(f"{path} category {shown(number)} has the name {shown(name)}, should be a line of text")
        if name in id_of or number in taken:
            raise DataError(f"{path} category {shown(number)} {shown(name)} has an id or name that another has too")
        id_of[name] = number
        taken.add(number)
    _check_types(taken, "category", path)
    ordered = sorted(id_of, key=lambda name: in_order(id_of[name]))
    names = ordered if classes is None else list(classes)
    check_names(names, f"the categories of {path}" if classes is None else "data.classes")
    for name in classes or ():
        check_class(name, ordered, "data.classes", f"the categories of {path}")
    label_of = dict.fromkeys(id_of.values(), 0) | {id_of[name]: label for label, name in enumerate(names, 1)}
    return names, [id_of[name] for name in names], label_of


def _images(
    entries: list[dict[str, Any]], path: Path, root: Path, images: Path
) -> tuple[list[str], list[Any], list[tuple[int, int]]]:
    """Files relative to the root, ids, and heights and widths."""
    if not entries:
        raise DataError(f"{path} names no image")
    prefix = PurePosixPath(images.relative_to(root).as_posix())
    exists = _listing(images)
    files, sizes = [], []
    seen: dict[Any, None] = {}
    for position, entry in enumerate(entries):
        number, name = _id(entry, "image", position, path), entry.get("file_name")
        source = f"{path} image {shown(number)}"
        if number in seen:
            raise DataError(f"{source} has an id that another image has too")
        seen[number] = None  # a dictionary keeps their order, too
        if not isinstance(name, str):
            raise DataError(f"{source} has the file_name {shown(name)}, should be text")
        check_relative(name, source)
        if not exists(name):
            raise DataError(f"{images / name}, which {source} names, is missing; data.images names another folder")
        height, width = entry.get("height"), entry.get("width")
        if not (type(height) is int and type(width) is int and 1 <= height <= 1_000_000 and 1 <= width <= 1_000_000):
            said = f"height {shown(height)} and width {shown(width)}"
            raise DataError(f"{source} has the {said}, should be whole pixels from 1 to 1000000")
        files.append(str(prefix / name))
        sizes.append((height, width))
    _check_types(seen, "image", path)
    return files, list(seen), sizes


def _listing(root: Path) -> Callable[[str], bool]:
    """Tell whether files exist, a folder listed once: one look per file takes minutes over a network."""
    listed: dict[str, set[str]] = {}

    def exists(name: str) -> bool:
        parent, _, stem = name.rpartition("/")
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(root / parent))
            except OSError:
                listed[parent] = set()
        return stem in listed[parent]

    return exists


def _id(entry: dict[str, Any], kind: str, position: int, path: Path) -> Any:
    value = entry.get("id")
    if not is_id(value):
        raise DataError(f"{path} {kind} at position {position} has the id {shown(value)}, should be a number or text")
    return value


def _check_types(ids: Iterable[Any], kind: str, path: Path) -> None:
    pair = alike(ids)
    if pair is not None:
        raise DataError(f"{path} has the {kind} ids {shown(pair[0])} and {shown(pair[1])}, which differ in type only")


def _wrong(
    entry: dict[str, Any], position: int, path: Path, index_of: dict[Any, int], label_of: dict[Any, int]
) -> DataError:
    """Say what is wrong with an annotation."""
    source = f"{path} annotation {shown(entry['id'])}" if "id" in entry else f"{path} annotation at position {position}"
    for key, known, kind in (("category_id", label_of, "category"), ("image_id", index_of, "image")):
        value = entry.get(key)
        if not isinstance(value, Hashable) or value not in known:
            near = nearest_id(value, known)
            hint = "" if near is None else f"; nearest is {shown(near)}"
            return DataError(f"{source} has the {key} {shown(value)}, which is no {kind}'s id{hint}")
    if entry.get("iscrowd", 0) not in (0, 1):
        return DataError(f"{source} has the iscrowd {shown(entry['iscrowd'])}, should be 0 or 1")
    rule = "should be x, y, width, height: four finite numbers, width and height not negative"
    area = f" and the area {shown(entry['area'])}" if "area" in entry else ""
    return DataError(f"{source} has the bbox {shown(entry.get('bbox'))}{area}; {rule}")
