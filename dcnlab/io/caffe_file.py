"""Caffe's .caffemodel files: the blobs of a network's layers, read within the file's own bounds.

A file is a NetParameter of Caffe's caffe.proto in protobuf's wire format. Of its fields the layers are read, in their
current form (field 100) and the one before (field 2), and of a layer its name and its blobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import shown

LARGEST = 2**31 - 1
"""Bytes, and protobuf's own limit of a message; a ResNet-152's have 241 million."""
MOST_FIELDS = 100_000
"""Of the messages that are read; a ResNet-152 has some ten thousand."""

_LAYERS = {100: (1, 7), 2: (4, 6)}
"""A network's fields that hold a layer, with the layer's own fields of its name and blobs."""
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_FIXED = {_DOUBLE: 8, _FLOAT: 4}

Field = tuple[int, int | memoryview]
"""A field's number and its value: a whole number, or bytes."""


class _Messages:
    """Cuts messages into fields, up to `MOST_FIELDS` of a file."""

    def __init__(self) -> None:
        self._fields = 0

    def fields(self, message: memoryview) -> Iterator[Field]:
        """The fields of a message, in their order."""
        at = 0
        while at < len(message):
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise DataError(f"it has more than {MOST_FIELDS} fields")
            tag, at = _varint(message, at)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, at = _varint(message, at)
                yield number, value
                continue
            if kind == _BYTES:
                length, at = _varint(message, at)
            elif kind in _FIXED:
                length = _FIXED[kind]
            else:
                raise DataError(f"its field {number} is of the wire type {kind}, which Caffe does not write")
            if number == 0 or length > len(message) - at:
                raise DataError(f"its field {number} states {length} bytes, and {len(message) - at} are left")
            at += length
            yield number, message[at - length : at]


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the blobs of a .caffemodel by layer and number, such as `res2a_branch2a.0`.

    Raises:
        OSError: there is no such file.
        DataError: it is not such a file, is damaged or too large; the reason, one line.
    """
    messages, blobs = _Messages(), {}
    for number, value in messages.fields(memoryview(read_bytes(path, LARGEST))):
        if number not in _LAYERS or not isinstance(value, memoryview):
            continue
        name_field, blob_field = _LAYERS[number]
        name, layer_blobs = "", []
        for field, part in messages.fields(value):
            if field == name_field and isinstance(part, memoryview):
                name = str(part, "utf-8", "replace")
            elif field == blob_field and isinstance(part, memoryview):
                layer_blobs.append(_blob(messages, part))
        for at, blob in enumerate(layer_blobs):
            if f"{name}.{at}" in blobs:
                raise DataError(f"it has two layers of the name {shown(name)}")
            blobs[f"{name}.{at}"] = blob
    if not blobs:
        raise DataError("it holds no layer with weights, as Caffe's networks do")
    return blobs


def _blob(messages: _Messages, message: memoryview) -> NDArray[np.generic]:
    """A BlobProto: its values in its shape, or in the four lengths that older files state."""
    old = {1: 0, 2: 0, 3: 0, 4: 0}
    shape: list[int] | None = None
    values: NDArray[np.generic] = np.zeros(0, "<f4")
    for number, value in messages.fields(message):
        if number in old and isinstance(value, int):
            old[number] = value
        elif number == 7 and isinstance(value, memoryview):
            shape = _shape(messages, value)
        elif number in (5, 8) and isinstance(value, memoryview):
            form = "<f4" if number == 5 else "<f8"
            if len(values) or len(value) % np.dtype(form).itemsize:
                raise DataError(f"a blob's values are not one run of numbers of {np.dtype(form).itemsize} bytes")
            values = np.frombuffer(value, form)
    lengths = list(old.values()) if shape is None else shape
    if math.prod(lengths) != len(values) or max(lengths, default=0) > LARGEST:
        raise DataError(f"a blob of the shape {lengths} holds {len(values)} values")
    return values.reshape(lengths).copy()


def _shape(messages: _Messages, message: memoryview) -> list[int]:
    """A BlobShape's lengths, packed or not; 32 at most, as many as Caffe and numpy have."""
    shape: list[int] = []
    for number, value in messages.fields(message):
        at = 0
        while number == 1 and isinstance(value, memoryview) and at < len(value) and len(shape) <= 32:
            length, at = _varint(value, at)
            shape.append(length)
        if number == 1 and isinstance(value, int):
            shape.append(value)
        if len(shape) > 32:
            raise DataError("a blob has more than 32 dimensions")
    return shape


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Decode the whole number (seven bits a byte) at a position; also the position after it."""
    number = 0
    for count in range(10):
        if at + count >= len(message):
            raise DataError("it ends within a number")
        byte = message[at + count]
        number |= (byte & 127) << (7 * count)
        if byte < 128:
            return number, at + count + 1
    raise DataError("it holds a number of more than 64 bits")
