"""Effective dilation of each annotated box, in its image and in other images, and their file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line

FILE = "dilation_boxes.npz"
HOSTS = 20
"""Number of other images that a box is laid on; their mean hardly depends on which images these are."""
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class BoxDilation:
    """The boxes of one run's test images; crowds are left out.

    A filter belongs to every box that contains its centre. Effective dilation is in pixels of the layer's own map.
    """

    layers: np.ndarray
    """(L,) names, the first layer of the network first."""
    plain: np.ndarray
    """(L,) effective dilation of each layer without offsets, pixels of its map."""
    image: np.ndarray
    """(B,) position of each box's image in the test split."""
    area: np.ndarray
    """(B,) pixels of the image file."""
    real: np.ndarray
    """(L, B) mean over the filters in the box; NaN where the box contains no centre."""
    moved: np.ndarray
    """(L, B) the same box laid on other images, scaled to their size: mean over them; NaN where none has a centre."""
    background: np.ndarray
    """(L, images) mean over the filters in no box; NaN where there are none."""


def other_images(count: int, seed: int = 0) -> np.ndarray:
    """The other images on which each image's boxes are measured: (n, count) positions, n at most `HOSTS`.

    Each line is a permutation, so that every image takes boxes equally often. No image is given twice to another.

    Args:
        count: of images; n is 0 for a single one.
        seed: of the permutations.
    """
    generator = np.random.default_rng(seed)
    cycle = generator.permutation(count)
    steps = 1 + generator.permutation(max(count - 1, 0))[:HOSTS]
    others = np.empty((len(steps), count), dtype=np.int64)
    for line, step in zip(others, steps, strict=True):
        line[cycle] = np.roll(cycle, step)
    return others


def write(path: Path, boxes: BoxDilation) -> None:
    """Write the file as a whole."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{field.name: getattr(boxes, field.name) for field in fields(boxes)})
    write_whole(path, buffer.getvalue())


def read(path: Path) -> BoxDilation | None:
    """Read the file; None where there is none.

    Raises:
        DataError: it is not what `write` writes.
    """
    names = [field.name for field in fields(BoxDilation)]
    try:
        with np.load(io.BytesIO(read_bytes(path, _MAX_BYTES)), allow_pickle=False) as arrays:
            boxes = BoxDilation(**{name: arrays[name] for name in names})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not what dcnlab dilation writes ({one_line(error)}); measure it again") from error
    layers, count = len(boxes.layers), len(boxes.area)
    fits = boxes.real.shape == boxes.moved.shape == (layers, count) and boxes.background.ndim == 2
    if not fits or boxes.plain.shape != (layers,) or boxes.image.shape != (count,):
        raise DataError(f"{path}: its arrays do not fit each other; measure it again with dcnlab dilation")
    if count and not 0 <= boxes.image.min() <= boxes.image.max() < boxes.background.shape[1]:
        raise DataError(f"{path}: image is outside 0 to {boxes.background.shape[1] - 1}; measure it again")
    return boxes
