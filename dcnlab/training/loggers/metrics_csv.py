"""metrics.csv: a row for each step that was logged, up to the checkpoint."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line

MAX_BYTES = 2**30
"""Of a metrics.csv."""
SECONDS = 10.0
"""Maximal time until a row is in the file; each checkpoint writes them too."""


class MetricsFile(Logger):
    """Logs to a CSV file with a sorted column for each metric; new metrics add columns.

    Lightning's CSV logger empties the file to change its header and when a run is resumed, so a kill then loses rows.

    Args:
        path: of the file.
        upto: step from which the training resumes. Rows of earlier steps stay, later ones go, as those steps are
            trained again. None begins a new file.

    Raises:
        ConfigError: the file is not a table of steps.
    """

    def __init__(self, path: Path, upto: int | None = None) -> None:
        super().__init__()
        self._path = path
        try:
            self._kept = [] if upto is None else [row for row in read(path) if int(row["step"]) < upto]
        except (csv.Error, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is not a table of steps ({one_line(error)}); move it away to continue"
            ) from error
        self._columns: list[str] = []
        self._new: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()

    @property
    def name(self) -> str:
        """The file's name, as Lightning's name of the logger."""
        return self._path.name

    @property
    def version(self) -> str:
        """The run folder's name, as Lightning's version of the logger."""
        return self._path.parent.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; a test's row has no epoch, which Lightning counts differently after a resume."""
        tested = any(key.startswith("test/") for key in metrics)
        self._new.append({**{key: metrics[key] for key in metrics if not (tested and key == "epoch")}, "step": step})
        if time.monotonic() - self._saved_at > SECONDS:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Append the rows to the file, or replace the whole file where there are new columns."""
        self._saved_at = time.monotonic()
        if not self._new and not self._kept:
            return
        columns = sorted(set(self._columns).union(*self._new, *self._kept[:1]))
        if columns == self._columns:
            self._append(_text(self._new, columns, header=False))
        else:
            rows = self._kept or (read(self._path) if self._columns else [])
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, _text([*rows, *self._new], columns, header=True))
        self._columns, self._kept, self._new = columns, [], []

    def _append(self, text: str) -> None:
        with self._path.open("ab") as file:
            before = file.tell()
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:  # a full disk may hold a part of the rows
                error.filename = str(self._path)
                os.truncate(self._path, before)
                raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last rows."""
        self.save()


def read(path: Path) -> list[dict[str, str]]:
    """The complete rows of a metrics.csv: a row that a kill cut short is left out; no file means no rows."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        return []
    whole = content.decode().rpartition("\n")[0]
    return list(csv.DictReader(io.StringIO(whole)))


def _text(rows: list[dict[str, Any]], columns: list[str], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
