"""Files of tensors that others wrote, read without running code from them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from dcnlab.config import one_line
from dcnlab.data.files import open_regular

MOST_UNPACKED = 64
"""Times a file's own length that its parts may unpack to; torch's are stored as they are, weights hardly compress."""


def load(path: Path) -> Any:
    """What `torch.save` wrote: tensors and plain containers, on the CPU.

    Raises:
        ValueError: it is no such file, holds other objects, or unpacks to far more than itself; the reason, one line.
    """
    try:
        with open_regular(path) as file:
            check_unpacked(path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file, and every kind of file that is not torch's, raises something else
        raise ValueError(reason(error)) from error


def check_unpacked(path: Path) -> None:
    """Refuse an archive that unpacks to far more than itself.

    Raises:
        ValueError: it does; the reason, one line.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        most = MOST_UNPACKED * os.path.getsize(path) + 2**24
        if unpacked > most:
            raise ValueError(f"it would unpack to {unpacked} bytes, more than the {most} allowed")


def reason(error: BaseException) -> str:
    """Kind and first line of an exception: torch's go on with advice on how to trust the file."""
    first = str(error).partition("\n")[0]
    return one_line(Exception(f"{type(error).__name__}: {first}".removesuffix(": ")))
