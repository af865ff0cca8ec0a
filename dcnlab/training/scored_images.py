"""Writes a run's test_images.npz: what its scores were made of for each test image; and what an old run lacks."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.metrics import image_records
from dcnlab.training import confusion_files
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.parts import Parts
from dcnlab.training.run_folder import RunFolder

TOLERANCE = 1e-4
"""Percent by which scores may differ from those in results.json, which are float32."""


def write(parts: Parts, config: Config, folder: RunFolder) -> None:
    """Write the record of the test that was just made, on rank 0.

    Args:
        parts: of the run.
        config: of the run.
        folder: of the run.
    """
    record: Any = getattr(parts.task, "test_record", None)
    if record is not None and is_rank_0():
        names = image_names(parts.data.test, config.data.root, [int(position) for position in record.images])
        image_records.write(folder.test_images, dataclasses.replace(record, images=names))


def write_missing(parts: Parts, config: Config, folder: RunFolder, metrics: Mapping[str, float]) -> None:
    """Write what an earlier release's run lacks, where `evaluate` found the scores of its results.json.

    Args:
        parts: of the run.
        config: of the run.
        folder: of the run.
        metrics: that `evaluate` found.
    """
    lacks_record = not folder.test_images.exists()
    lacks_confusion = not folder.confusion.exists() and getattr(parts.task, "confusion", None) is not None
    if not (lacks_record or lacks_confusion) or not is_rank_0():
        return
    try:
        recorded = (folder.read_results() or {}).get("metrics", {})
        if recorded and all(
            math.isclose(metrics.get(name, math.nan), value, rel_tol=0, abs_tol=TOLERANCE)
            for name, value in recorded.items()
        ):
            if lacks_record:
                write(parts, config, folder)
            if lacks_confusion:
                confusion_files.write(parts.task, folder)
    except (OSError, ConfigError) as error:  # the folder may be another user's
        logging.getLogger("dcnlab").info(f"{folder} lacks files that are not written: {one_line(error)}")


def image_names(dataset: Any, root: str | None, positions: list[int]) -> tuple[str, ...]:
    """Name images of a test split, each by another name.

    Args:
        dataset: names its images by `image_name`, or by `path`, which is taken relative to the root; else by position.
        root: folder of the data set.
        positions: of the images in the split.
    """
    if hasattr(dataset, "image_name"):
        names = [str(dataset.image_name(position)) for position in positions]
    elif hasattr(dataset, "path"):
        names = [os.path.relpath(dataset.path(position), root or ".") for position in positions]
    else:
        names = [str(position) for position in positions]
    counts, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if counts[name] == 1 else f"{name}#{seen[name]}")
    return tuple(unique)
