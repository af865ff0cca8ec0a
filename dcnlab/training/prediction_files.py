"""Writes predictions for a folder of images: all of them or nothing, in memory that does not grow with the folder."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TextIO

import torch

from dcnlab.io.errors import ConfigError
from dcnlab.io.folders import files_below
from dcnlab.io.image_file import ENDINGS
from dcnlab.io.text import csv_cell
from dcnlab.tasks.label_pictures import label_image
from dcnlab.training.prediction_types import Boxes, LabelMap, Prediction, Probabilities

TOP = 5
"""Classes of an image in classes.csv."""


def images_of(path: Path) -> tuple[Path, list[str]]:
    """The images of a file or a folder with its sub-folders: the folder that they lie in, and their paths.

    Raises:
        ConfigError: there is no such file or folder, or no image in it.
        DataError: a folder cannot be read.
    """
    if path.is_file():
        return path.parent, [str(path)]
    if not path.is_dir():
        raise ConfigError(f"no such file or folder: {path}")
    paths = files_below(path, ENDINGS)
    if not paths:
        raise ConfigError(f"{path} holds no image; expected files ending in {', '.join(ENDINGS)}")
    return path, paths


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end; if the work stops before, nothing is left.

    Raises:
        ConfigError: `out` holds something already, or cannot be made.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out is {str(out)!r}, which holds {min(os.listdir(out))}; name a new or an empty folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, a file; name a new or an empty folder")
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, out)  # takes the place of an empty folder, and of nothing else
        except OSError as error:
            raise ConfigError(
                f"--out is {str(out)!r}, where another process has written meanwhile; start again"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class PredictionFiles:
    """The files of predictions in a folder.

    A detector's boxes are in detections.json, in COCO's result form; also `dcnlab score` reads it. A segmentation is a
    PNG of labels for each image, in labels/, and classes.json names the labels. A classifier's five best classes of
    each image are rows of classes.csv. Pictures of all of them are in pictures/.

    Args:
        folder: that exists, and is empty.
        root: that the names of images are relative to.
        draws: whether pictures are written.
        min_score: boxes of a lower score are not drawn; the file holds them.
    """

    def __init__(self, folder: Path, root: Path, draws: bool = True, min_score: float = 0.3) -> None:
        self._folder, self._root, self._draws, self._min_score = folder, root, draws, min_score
        self._stems: set[str] = set()
        self._table: TextIO | None = None
        self._rows = 0
        self.empty_pictures = 0
        """Pictures of a detector without a box, as none has the minimum score."""

    def add(self, prediction: Prediction) -> None:
        """Write what belongs to one image."""
        file = PurePath(os.path.relpath(prediction.name, self._root)).as_posix()
        stem = self._stem(file)
        if isinstance(prediction, Boxes):
            self._add_boxes(prediction, file, stem)
        elif isinstance(prediction, LabelMap):
            self._add_labels(prediction, stem)
        elif isinstance(prediction, Probabilities):
            self._add_classes(prediction, file)
        if self._draws:
            drawn = prediction.draw(self._min_score) if isinstance(prediction, Boxes) else prediction.draw()  # type: ignore[attr-defined]
            drawn.save(self._path("pictures", stem, ".jpg"), quality=90)

    def close(self) -> None:
        """End the files."""
        if self._table is not None:
            if self._table.name.endswith(".json"):
                self._table.write("\n]\n")
            self._table.close()
            self._table = None

    def _stem(self, file: str) -> str:
        """The name of an image without its ending; with it where another image has that name."""
        stem = os.path.splitext(file)[0]
        stem = file if stem in self._stems else stem
        self._stems.add(stem)
        return stem

    def _path(self, kind: str, stem: str, ending: str) -> Path:
        path = self._folder / kind / f"{stem}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _opened(self, name: str, head: str) -> TextIO:
        if self._table is None:
            self._table = (self._folder / name).open("w", newline="")
            self._table.write(head)
        return self._table

    def _add_boxes(self, boxes: Boxes, file: str, stem: str) -> None:
        self.empty_pictures += self._draws and not bool((boxes.scores >= self._min_score).any())
        table = self._opened("detections.json", "[")
        corners = boxes.boxes
        sides = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        columns = (sides.tolist(), boxes.labels.tolist(), boxes.scores.tolist(), boxes.names)
        for box, label, score, name in zip(*columns, strict=True):
            row = {"image_id": stem, "category_id": label, "bbox": box, "score": score}
            row |= {"file_name": file, "category": name}
            table.write(("," if self._rows else "") + "\n" + json.dumps(row))
            self._rows += 1

    def _add_labels(self, labels: LabelMap, stem: str) -> None:
        if not self._rows:
            (self._folder / "classes.json").write_text(json.dumps(labels.classes, indent=1) + "\n")
        self._rows += 1
        label_image(labels.labels, len(labels.classes)).save(self._path("labels", stem, ".png"))

    def _add_classes(self, probabilities: Probabilities, file: str) -> None:
        writer = csv.writer(self._opened("classes.csv", "file,rank,class,probability\n"), lineterminator="\n")
        for rank, (name, probability) in enumerate(probabilities.top(TOP), 1):
            writer.writerow([csv_cell(file), rank, csv_cell(name), f"{probability:.6f}"])
