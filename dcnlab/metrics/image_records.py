"""ImageRecord: what a run's scores were made of for each test image; pooled, and read and written as .npz."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line
from dcnlab.metrics.classification_record import ClassificationRecord
from dcnlab.metrics.detection_record import DetectionRecord
from dcnlab.metrics.record_checks import check_columns
from dcnlab.metrics.segmentation_record import SegmentationRecord

LARGEST = 2**31
"""Bytes of a file, packed or unpacked."""


class ImageRecord(Protocol):
    """The images of a test set, and what scores a test set that is drawn from them."""

    @property
    def images(self) -> tuple[str, ...]:
        """Ids of the N test images, in the data set's order, each once."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names, as in results.json, of the metrics that can be scored again."""

    def scores(self, metric: str, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """Score B test sets that are drawn from the images.

        Args:
            metric: of `metrics`.
            weights: (B, N), how often each image was drawn.

        Returns:
            (B,) percent, nan where it is not defined. Weights of ones give the run's own value, which results.json
            holds in float32.
        """

    def header(self) -> Mapping[str, Any]:
        """What is written as text."""

    def columns(self) -> Mapping[str, NDArray[Any]]:
        """What is written as arrays."""

    @classmethod
    def joined(cls, images: tuple[str, ...], parts: Sequence[Self]) -> Self:
        """One record of the images of several, which have the same header."""


KINDS: dict[str, Any] = {
    "classification": ClassificationRecord,
    "segmentation": SegmentationRecord,
    "detection": DetectionRecord,
}
"""The kinds of records, by task."""


def pool(records: Sequence[ImageRecord]) -> ImageRecord:
    """Pool the folds of a data set to one test set.

    Args:
        records: of at least one fold, of one task, with the same classes and protocol.

    Raises:
        DataError: they have an image in common, or cannot be scored together; one line.
    """
    first = records[0]
    images = tuple(image for record in records for image in record.images)
    for record in records[1:]:
        if type(record) is not type(first) or record.header() != first.header():
            raise DataError("test images of several folds have different classes, metrics or protocols")
    if len(set(images)) < len(images):
        twice = next(image for image, count in Counter(images).items() if count > 1)
        raise DataError(f"test image {twice} is in two folds; each must be in one")
    return type(first).joined(images, records)


def write(path: Path, record: ImageRecord) -> None:
    """Write a record, whole or not at all; the same record gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    kind = next(name for name, type_of_record in KINDS.items() if isinstance(record, type_of_record))
    text = json.dumps({"kind": kind, "images": record.images, **record.header()})
    columns: dict[str, Any] = {"header": np.frombuffer(text.encode(), np.uint8), **record.columns()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # not numpy's, which writes the time of day
        for name, values in columns.items():
            packed = io.BytesIO()
            np.lib.format.write_array(packed, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), packed.getbuffer(), zipfile.ZIP_DEFLATED)
    write_whole(path, content.getbuffer())


def read(path: Path) -> ImageRecord:
    """Read a record; no code in the file is run.

    Raises:
        DataError: there is no such file, or it is damaged; one line that names it.
    """
    try:
        arrays = _arrays(read_bytes(path, LARGEST))
        header = json.loads(arrays.pop("header").astype(np.uint8).tobytes())
        kind, images = KINDS[header.pop("kind")], header.pop("images")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in header.items()}
        record: ImageRecord = kind(images=tuple(images), **values, **arrays)
        check_columns(record)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, RuntimeError) as error:
        raise DataError(f"{path} holds no test images as a run writes them ({one_line(error)})") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({one_line(error)})") from error
    return record


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Unpack the arrays of an .npz file.

    Raises:
        DataError: they are larger than `LARGEST`.
    """
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
            raise DataError(f"it unpacks to more than {LARGEST >> 20} MiB")
    with np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays)
