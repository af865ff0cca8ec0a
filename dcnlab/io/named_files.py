"""NamedFiles: finds image files by their name without ending."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dcnlab.io.image_file import ENDINGS


class NamedFiles:
    """Finds files by their name without ending; every folder is listed once.

    Two files of one name are told in one warning, and the first in the order of `endings` is taken.

    Args:
        folder: that names are relative to; a name may hold sub-folders.
        endings: in lower case; files may have them in any case.
    """

    def __init__(self, folder: Path, endings: Sequence[str] = ENDINGS) -> None:
        self.folder, self.endings = folder, endings
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._warned = False

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> Path | None:
        """Find the file of a name; None: no such file."""
        parent, _, stem = name.rpartition("/")
        files = self._list(parent).get(stem)
        if files is None:
            return None
        if len(files) > 1 and not self._warned:
            self._warned = True
            logging.getLogger("dcnlab").warning(
                f"warning: {self.folder / parent} holds {' and '.join(files)}, files of one name; "
                f"{files[0]} is taken, and so in others like it"
            )
        return self.folder / parent / files[0]

    def names(self) -> list[str]:
        """List the names in the folder itself, sorted."""
        return sorted(self._list(""))

    def _list(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listed:
            files_by_stem: dict[str, list[str]] = {}
            with contextlib.suppress(OSError), os.scandir(self.folder / parent) as entries:
                for entry in entries:
                    stem, ending = os.path.splitext(entry.name)
                    if ending.lower() in self.endings and entry.is_file():
                        files_by_stem.setdefault(stem, []).append(entry.name)
            for names in files_by_stem.values():
                names.sort(key=lambda name: (self.endings.index(os.path.splitext(name)[1].lower()), name))
            self._listed[parent] = files_by_stem
        return self._listed[parent]
