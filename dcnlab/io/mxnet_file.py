"""MXNet's .params files: a list of named arrays, read within the file's own bounds.

All numbers are little-endian. A file is the list's magic number and a reserved one, both of 64 bits; the arrays, after
their count; and their names, after theirs. An array is a version's magic number, its shape, a device of 8 bytes, the
type of its values, and the values. The oldest form has the number of dimensions in the magic number's place.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import shown

LARGEST = 2**31
"""Bytes; a ResNet-152's have 242 million."""
MOST_ARRAYS = 100_000
_LIST_MAGIC = 0x112
_VERSION_1, _VERSION_2, _VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MOST_DIMENSIONS = 32
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


class _Reader:
    """Takes numbers, text and arrays from a file's bytes, and never more than there are."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = memoryview(content), 0

    def bytes(self, count: int) -> memoryview:
        """The next bytes."""
        if count > len(self._content) - self._at:
            raise DataError(f"it ends within an entry of {count} bytes at byte {self._at}")
        self._at += count
        return self._content[self._at - count : self._at]

    def number(self, form: str) -> int:
        """The next whole number, of a numpy type such as `<u4`."""
        size = np.dtype(form).itemsize
        return int(np.frombuffer(self.bytes(size), form)[0])

    def count(self, of: str) -> int:
        """The number of a list's entries."""
        number = self.number("<u8")
        if number > MOST_ARRAYS:
            raise DataError(f"it states {number} {of}; allowed are {MOST_ARRAYS}")
        return number

    def array(self) -> NDArray[np.generic]:
        """The next array; a view of the file's bytes."""
        magic = self.number("<u4")
        if magic in (_VERSION_2, _VERSION_3) and self.number("<i4") != 0:
            raise DataError("it holds a sparse array, which weights are not")
        dimensions = self.number("<u4") if magic in (_VERSION_1, _VERSION_2, _VERSION_3) else magic
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise DataError(f"it holds an array of {dimensions} dimensions; allowed are 1 to {_MOST_DIMENSIONS}")
        size = "<i8" if magic in (_VERSION_1, _VERSION_2, _VERSION_3) else "<u4"
        shape = [self.number(size) for _ in range(dimensions)]
        if not 0 <= min(shape) <= max(shape) <= LARGEST:
            raise DataError(f"it holds an array of the shape {shape}")
        self.bytes(8)  # the device that it was saved from
        kind = self.number("<i4")
        if kind not in _TYPES:
            raise DataError(f"it holds an array of the type {kind}; known are {', '.join(map(str, _TYPES))}")
        dtype = np.dtype(_TYPES[kind])
        return np.frombuffer(self.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a .params file by their names, such as `arg:conv0_weight`.

    Raises:
        OSError: there is no such file.
        DataError: it is not such a file, is damaged or too large; the reason, one line.
    """
    reader = _Reader(read_bytes(path, LARGEST))
    if reader.number("<u8") != _LIST_MAGIC:
        raise DataError("it does not begin as MXNet's lists of arrays do, with the number 0x112")
    reader.bytes(8)
    arrays = [reader.array() for _ in range(reader.count("arrays"))]
    names = [str(reader.bytes(reader.number("<u8")), "utf-8", "replace") for _ in range(reader.count("names"))]
    if len(names) != len(arrays):
        raise DataError(f"it holds {len(arrays)} arrays and {len(names)} names")
    arrays_by_name: dict[str, NDArray[np.generic]] = {}
    for name, array in zip(names, arrays, strict=True):
        if name in arrays_by_name:
            raise DataError(f"it holds two arrays of the name {shown(name)}")
        arrays_by_name[name] = array.copy()
    return arrays_by_name
