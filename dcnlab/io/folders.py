"""Files below a folder of images, links followed by one rule.

A link to a file or a folder is followed, also where it leads out of `data.root`: users link data sets from other disks.
Each folder is read once: a link to one that was read already, such as a link to itself, is left out with a warning.
Names in lists and annotations are another matter, see `paths.check_relative`: they never leave `data.root`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dcnlab.io.errors import DataError
from dcnlab.io.files import kind_of


def files_below(folder: str | Path, endings: Sequence[str]) -> list[str]:
    """List the files of some endings in a folder and its sub-folders, by folder and name.

    Args:
        folder: where to begin.
        endings: in lower case; files may have them in any case.

    Raises:
        DataError: a file of such an ending is a pipe, a device or a link to nothing, or a folder cannot be read; one
            line that names it.
    """
    names_by_folder: list[tuple[str, list[str]]] = []
    left_out: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting, links = [os.fspath(folder)], list[str]()
    try:
        while waiting or links:
            here = waiting.pop() if waiting else links.pop(0)  # links last: a folder goes by its own name
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                left_out.append(here)
                continue
            seen.add((status.st_dev, status.st_ino))
            inner, linked, names = _listed(here, tuple(endings))
            names_by_folder.append((here, names))
            waiting += inner
            links += linked
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        logging.getLogger("dcnlab").warning(
            f"warning: {left_out[0]}{more}: a folder that was read already under another name; its files count once"
        )
    return [os.path.join(here, name) for here, names in sorted(names_by_folder) for name in names]


def _listed(folder: str, endings: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """Paths of the folders in a folder and of the links to folders, and names of the files; each sorted."""
    inner, links, names = list[str](), list[str](), list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                (links if entry.is_symlink() else inner).append(entry.path)
            elif entry.name.lower().endswith(endings):
                if not entry.is_file():
                    kind = kind_of(os.stat(entry.path).st_mode)
                    raise DataError(f"{entry.path} is {kind}; images are regular files")
                names.append(entry.name)
    return sorted(inner), sorted(links), sorted(names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
