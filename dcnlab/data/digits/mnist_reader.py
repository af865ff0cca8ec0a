"""Reads the embedded handwritten digits: MNIST's test half, in its idx format."""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError

SPLITS = ("train", "val", "test")
# The file's first half is cleaner handwriting than its second, so splits interleave: of ten digits in a row 7, 1 and 2.
_SPLIT_OF_LAST_PLACE = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 2])


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """Decode MNIST's idx format: two zero bytes, type, number of axes, each axis as big-endian int32, the values.

    Args:
        data: the decompressed file; unsigned bytes (type 8) only.

    Returns:
        The array, of the file's own shape.

    Raises:
        DataError: the bytes are not an idx file of unsigned bytes, or too few or too many for its shape.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(f"not an idx file of unsigned bytes: starts with {data[:4].hex(' ')!r}, not 00 00 08")
    axes = data[3]
    shape: tuple[Any, ...] = tuple(np.frombuffer(data, ">i4", count=axes, offset=4).tolist())
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape):
        raise DataError(f"idx file of shape {shape} holds {values.size} values, not {np.prod(shape)}")
    return values.reshape(shape)


def read_digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one split of the embedded digits; no digit is in two splits.

    Args:
        split: train (7,000 digits), val (1,000) or test (2,000).

    Returns:
        (D, 28, 28) ink, 0 is paper and 255 black ink, and (D,) the digits' classes, 0 to 9.

    Raises:
        DataError: there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"no split {split!r} of the embedded digits; there are {', '.join(SPLITS)}")
    folder = files("dcnlab.data.digits") / "mnist"
    images = read_idx(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()))
    labels = read_idx(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    of_split = _SPLIT_OF_LAST_PLACE[np.arange(len(labels)) % 10] == SPLITS.index(split)
    return images[of_split], labels[of_split]
