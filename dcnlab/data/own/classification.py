"""Reads the class folders of a user's folder, in three splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcnlab.data.classification.class_files import class_folders, labelled_files
from dcnlab.data.labels import check_same_classes
from dcnlab.data.own.class_folders import classes_in
from dcnlab.data.own.found import Own, line_of
from dcnlab.data.own.layout import recognise
from dcnlab.data.own.splits import by_role, deal

Samples = tuple[list[tuple[str, int]], list[str]]
"""Files with their labels, and the names of the classes."""


def own_class_folders(root: str | Path, classes: Sequence[str] | None, layout: str | None) -> Own[Samples]:
    """Recognise a folder's layout, list its images and make three splits.

    Args:
        root: of the folder.
        classes: class folders in the order of their labels; None takes all that hold images, by name.
        layout: imagefolder; None looks.

    Raises:
        DataError: the layout is not known, or a file is not right; one line.
    """
    folder = Path(root)
    name, found, also = recognise(folder, "classification", layout)
    read: dict[str, Samples] = {}
    for split, path in found.folders.items():
        chosen = class_folders(path, classes if classes is not None else classes_in(path))
        read[split] = (labelled_files(path, chosen), chosen)
    train = by_role(read).get("train", next(iter(read)))
    check_same_classes(folder, (train, read[train][1]), *((split, part[1]) for split, part in read.items()))
    relative = {
        split: [Path(file).relative_to(folder).as_posix() for file, _ in part[0]] for split, part in read.items()
    }
    dealt = deal(relative, folder, [label for _, label in read[train][0]])
    splits: dict[str, Samples] = {}
    for role, part in dealt.parts.items():
        files, names = read[part.source]
        splits[role] = (files if part.positions is None else [files[at] for at in part.positions], names)
    counts = {role: len(files) for role, (files, _) in splits.items()}
    return Own(name, line_of(folder, "a folder for each class", splits["train"][1], counts, dealt, also), splits)
