"""Recognises the layout of a user's folder, or names what was looked for and the nearest layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcnlab.config.names import OWN_LAYOUTS
from dcnlab.data.own.class_folders import find_class_folders
from dcnlab.data.own.coco import find_coco
from dcnlab.data.own.found import listed
from dcnlab.data.own.masks import find_cityscapes, find_lists, find_masks, find_voc_masks
from dcnlab.data.own.voc import find_voc
from dcnlab.data.own.yolo_folders import find_yolo
from dcnlab.io.errors import DataError

Finder = Callable[[Path], Any]
"""Looks at a folder; returns what it found of its layout, or None."""

FINDERS: dict[str, dict[str, Finder]] = {
    "detection": {"voc": find_voc, "coco": find_coco, "yolo": find_yolo},
    "segmentation": {
        "cityscapes": find_cityscapes,
        "voc": find_voc_masks,
        "imagelist": find_lists,
        "masks": find_masks,
    },
    "classification": {"imagefolder": find_class_folders},
}
"""By task and layout, in the order in which they are asked."""


def recognise(root: Path, task: str, layout: str | None, data: str = "own") -> tuple[str, Any, list[str]]:
    """Find the layout of a folder.

    Args:
        root: of the folder.
        task: that networks learn there.
        layout: `data.layout`; None takes the first that fits.
        data: `data.name`: own, or a layout's name, for messages.

    Returns:
        The layout, what its finder found, and other layouts that fit as well.

    Raises:
        DataError: none fits; one line with what was looked for and what is nearest.
    """
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder")
    fitting = {name: found for name, find in FINDERS[task].items() if (found := find(root)) is not None}
    if layout is not None and layout not in fitting:
        has = f"; it has {', '.join(fitting)}" if fitting else f"; {_nearest(root, task)}"
        key = "data.layout" if data == "own" else "data.name"
        raise DataError(f"{key} is {layout!r}: data.root {root} has no {OWN_LAYOUTS[task][layout]}{has}")
    if not fitting:
        looked = "; ".join(f"{name}: {text}" for name, text in OWN_LAYOUTS[task].items())
        raise DataError(f"data.root {root} has no known layout of {task} ({looked}); {_nearest(root, task)}")
    name = layout or next(iter(fitting))
    return name, fitting[name], [other for other in fitting if other != name]


def _nearest(root: Path, task: str) -> str:
    """What the folder may be instead: another task's, a folder above the data, or what it holds."""
    inner = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    for folder in inner:
        for name, find in FINDERS[task].items():
            if find(folder) is not None:
                return f"nearest: {folder}, which has {name}"
    for other, known in FINDERS.items():
        for name, find in known.items():
            if other != task and find(root) is not None:
                return f"nearest: {name} for {other}, dcnlab fit {other}/own"
    held = sorted(entry.name for entry in root.iterdir())
    return f"it holds {listed(held)}"
