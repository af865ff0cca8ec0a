"""MATLAB's .mat files of version 5, as much of them as SBD's labels need, within the file's own bounds.

Not scipy's reader: a damaged file makes it read and write outside its memory, which ends the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError

LARGEST = 2**26
"""Bytes, packed or unpacked; SBD's labels have some hundred thousand."""

_HEAD = 128
_MATRIX, _COMPRESSED, _STRUCT = 14, 15, 2
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = range(6, 16)


class _Matrix(NamedTuple):
    """One of the file's arrays: its class, shape and name, and the elements that hold its values."""

    kind: int
    shape: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, memoryview]]


def read_field(content: bytes, variable: str, field: str) -> NDArray[np.generic]:
    """Read a numeric field of a structure of one element, or of the first.

    Args:
        content: of the file.
        variable: the structure.
        field: of it.

    Returns:
        The array, in the type it is stored in.

    Raises:
        DataError: the file is damaged, or has no such field; the reason, one line.
    """
    if len(content) > LARGEST:
        raise DataError(f"larger than {LARGEST >> 20} MiB")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEAD])
    if order is None:
        raise DataError("no MATLAB file of version 5")
    try:
        for kind, data in _elements(memoryview(content)[_HEAD:], order):
            if kind == _COMPRESSED:
                kind, data = next(_elements(_unpacked(data), order))
            if kind == _MATRIX:
                matrix = _matrix(data, order)
                if matrix.kind == _STRUCT and matrix.name == variable:
                    return _numbers(_of_struct(matrix, field, order), order)
    except (struct.error, zlib.error, StopIteration, UnicodeDecodeError) as error:
        raise DataError(f"damaged: {error}") from error
    raise DataError(f"holds no structure {variable}")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each: a tag of 8 bytes and the content, filled up to 8; 4 bytes or less lie in the tag."""
    while len(data) >= 8:
        kind, length = struct.unpack_from(f"{order}II", data)
        if kind >> 16:
            kind, length, start, step = kind & 0xFFFF, kind >> 16, 4, 8
        else:
            start, step = 8, 8 + (length if kind == _COMPRESSED else -(-length // 8) * 8)
        if start + length > (8 if start == 4 else len(data)):
            raise DataError("damaged: an element reaches beyond its end")
        yield kind, data[start : start + length]
        data = data[step:]


def _unpacked(data: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(data, LARGEST + 1)
    if len(unpacked) > LARGEST:
        raise DataError(f"it unpacks to more than {LARGEST >> 20} MiB")
    return memoryview(unpacked)


def _matrix(data: memoryview, order: str) -> _Matrix:
    rest = _elements(data, order)
    (_, flags), (_, shape), (_, name) = next(rest), next(rest), next(rest)
    sizes = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    return _Matrix(struct.unpack_from(f"{order}I", flags)[0] & 0xFF, sizes, bytes(name).decode("ascii"), rest)


def _of_struct(matrix: _Matrix, field: str, order: str) -> _Matrix:
    """The first element's field, which lies where its name does among the names."""
    (_, width), (_, names) = next(matrix.rest), next(matrix.rest)
    (size,) = struct.unpack_from(f"{order}i", width)
    if size < 1:
        raise DataError("damaged: names of no length")
    for at in range(0, len(names), size):
        _, data = next(matrix.rest)
        if bytes(names[at : at + size]).partition(b"\0")[0] == field.encode():
            return _matrix(data, order)
    raise DataError(f"holds no field {field}")


def _numbers(matrix: _Matrix, order: str) -> NDArray[np.generic]:
    kind, data = next(matrix.rest)
    if matrix.kind not in _NUMERIC or kind not in _STORED:
        raise DataError("the field holds no numbers")
    kept = np.dtype(order + _STORED[kind])
    if min(matrix.shape, default=-1) < 0 or math.prod(matrix.shape) * kept.itemsize != len(data):
        raise DataError(f"damaged: {len(data)} bytes for an array of shape {matrix.shape}")
    values = np.frombuffer(data, kept).reshape(matrix.shape, order="F")
    return values.astype(kept.newbyteorder("="))
