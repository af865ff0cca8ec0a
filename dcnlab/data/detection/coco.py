"""Reads the boxes of COCO, and of any data set in COCO's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.data.detection.annotations import Annotations, join, starts
from dcnlab.data.detection.coco_lists import read_categories, read_images
from dcnlab.data.labels import names_of
from dcnlab.data.photographs import strings
from dcnlab.io import json_lists
from dcnlab.io.box_table import BoxTable
from dcnlab.io.errors import DataError
from dcnlab.io.ids import column
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
        classes: class names in the order of their labels; boxes of others are left out. None takes the file's
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
    table, image_entries = BoxTable(), list[Any]()
    content: dict[str, Any] = {"annotations": []}
    content |= _load(path, {"annotations": table.add, "images": lambda entry: image_entries.append(_of_image(entry))})
    if isinstance(content.get("images"), list):
        content["images"] = image_entries
    names, category_ids, label_of = read_categories(_entries(content, "categories", path), path, classes)
    files, image_ids, sizes = read_images(_entries(content, "images", path), path, root, images)
    _entries(content, "annotations", path)
    index_of = {number: index for index, number in enumerate(image_ids)}
    columns = table.columns(index_of, label_of, prefix=f"{path} ")
    order = np.argsort(columns.images, kind="stable")
    order = order[columns.classes[order] > 0]
    corners = columns.boxes[order]
    corners[:, 2:] += corners[:, :2]
    return Annotations(
        root=root,
        classes=tuple(names),
        files=strings(files),
        image_ids=column(image_ids),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        offsets=starts(np.bincount(columns.images[order], minlength=len(files))),
        boxes=corners,
        labels=columns.classes[order],
        areas=columns.values[order],
        difficult=np.zeros(len(corners), np.bool_),
        crowd=columns.crowd[order],
        category_ids=column(category_ids),
    )


def _image_folder(root: Path, split: str, template: str | None) -> Path:
    tried = [form.replace("{split}", split) for form in (IMAGES if template is None else (template,))]
    for name in tried:
        check_relative(name, f"data.images, of split {split!r},")
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root {root} has no folder {' or '.join(tried)} of images; data.images names another")


def _of_image(entry: Any) -> Any:
    """The keys that are read of an image; the others, such as its addresses, would take most of the memory."""
    if not isinstance(entry, dict):
        return entry
    return {key: entry[key] for key in ("id", "file_name", "height", "width") if key in entry}


def _load(path: Path, take: dict[str, json_lists.Take]) -> dict[str, Any]:
    """Parse the file; the entries of its long lists are taken one at a time."""
    try:
        content = json_lists.load_object(path, take)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); data.annotations names another") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {shown(type(content).__name__)}, should be an object in COCO's form")
    return content


def _entries(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(type(entry) is dict for entry in entries):
        raise DataError(f"{path} has no list of objects {name!r}; COCO's form has images, annotations and categories")
    return entries
