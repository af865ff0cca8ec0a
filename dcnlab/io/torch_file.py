"""Reads untrusted files of tensors without running code from them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dcnlab.io.files import open_regular
from dcnlab.io.text import one_line, shown

_ARCHIVE = b"PK\x03\x04"
_FIRST = (b"P", b"\x80", b"")
"""First bytes of what torch.save writes, an archive or a pickle; of an empty file torch says itself that it is."""
MOST_UNPACKED = 64
"""Times a file's own length that its parts may unpack to; torch's are stored as they are, weights hardly compress."""


class _StandIn:
    """Takes the place of an object of another program's class, whose code does not run."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def load(path: Path, foreign: bool = False) -> Any:
    """What `torch.save` wrote: tensors and plain containers, on the CPU.

    Args:
        path: of the file.
        foreign: accept objects of other classes too, such as a training script's arguments or mmengine's logs; an
            empty object stands for each.

    Raises:
        ValueError: it is not such a file, is damaged, holds other objects, or unpacks to far more than itself; the
            reason, one line.
    """
    try:
        with open_regular(path) as file:
            if file.read(1) not in _FIRST:
                raise ValueError("it is not a file that torch.save writes")
            file.seek(0)
            check_archive(path)
            names = _classes(file) if foreign else []
            with torch.serialization.safe_globals([(_StandIn, name) for name in names]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file, and every kind of file that is not torch's, raises something else
        raise ValueError(reason(error)) from error


def _classes(file: BinaryIO) -> list[str]:
    """Names of the classes and functions in an archive of torch's that `weights_only` refuses; none are imported."""
    if file.read(len(_ARCHIVE)) != _ARCHIVE:  # older files: torch lists none of them
        names = ["argparse.Namespace"]
    else:
        file.seek(0)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    file.seek(0)
    return names


def check_archive(path: Path) -> None:
    """Refuse an archive whose checksums (CRC-32) do not hold, or that unpacks to far more than itself.

    torch itself checks neither. Files of other kinds, such as torch's from before 1.6, have no checksums: nothing of
    them is checked here.

    Raises:
        ValueError: it is damaged or too large; the reason, one line.
    """
    with open_regular(path) as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:  # what torch tells an archive by
            return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        allowed = MOST_UNPACKED * os.path.getsize(path) + 2**24
        if unpacked > allowed:
            raise ValueError(f"it would unpack to {unpacked} bytes, more than the {allowed} allowed")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {shown(damaged)} does not match its checksum")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity; waits for the GPU once where all are finite.

    A sum reads a tensor once and writes nothing; `isfinite` of all values takes ten times as long on a CPU.
    """
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floats:
        return []
    fine = torch.stack([torch.isfinite(_sum(tensor)) for tensor in floats.values()]).tolist()
    suspects = [name for name, is_fine in zip(floats, fine, strict=True) if not is_fine]
    return [name for name in suspects if not torch.isfinite(floats[name]).all()]  # a sum of finite values can overflow


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))


def reason(error: BaseException) -> str:
    """Kind and first line of an exception: torch's continue with advice on how to trust the file."""
    first = str(error).partition("\n")[0]
    return one_line(Exception(f"{type(error).__name__}: {first}".removesuffix(": ")))
