"""Mends the offline files of a killed run: `wandb sync` sends nothing of a run after a record that is cut off."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from dcnlab.io.files import open_regular

_FILE_HEADER, _HEADER, _BLOCK = 7, 7, 32768
_FEWEST = 2
"""Records of a file that `wandb sync` can read: wandb's version, and the run."""
_WHOLE, _LAST = 1, 4
"""Kinds of LevelDB's log format: a record in one part, and the last part of one."""


def mend(folder: Path) -> None:
    """Cut a run's offline files after their last whole record; remove those without the record of the run.

    Args:
        folder: of wandb's files; no process may be writing there.
    """
    for path in folder.glob("offline-run-*/run-*.wandb"):
        with open_regular(path, os.O_RDWR, "r+b") as file:
            data = file.read()
            count, end = _whole_records(data)
            if end < len(data):
                file.truncate(end)
        if count < _FEWEST:
            shutil.rmtree(path.parent)


def _whole_records(data: bytes) -> tuple[int, int]:
    """The number of whole records in a file, and the position after the last one."""
    count, at, end = 0, _FILE_HEADER, min(_FILE_HEADER, len(data))
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # the end of a block, too small for a header
            at += left
            continue
        length, kind = struct.unpack("<xxxxHB", data[at : at + _HEADER])
        at += _HEADER + length
        if at > len(data) or not _WHOLE <= kind <= _LAST:
            break
        if kind in (_WHOLE, _LAST):
            count, end = count + 1, at
    return count, end
