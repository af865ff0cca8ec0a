"""metrics.csv: a row for each time that something was logged, in step with the checkpoint."""

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

LARGEST = 2**30
"""Bytes of a metrics.csv."""
SECONDS = 10.0
"""Rows reach the file at least so often, and before every checkpoint."""


class MetricsFile(Logger):
    """Logs to a CSV file whose columns, one for each figure and sorted, grow with what is logged.

    Lightning's own logger empties the file to change its header and when a run goes on, so that a kill then costs rows.

    Args:
        path: of the file.
        upto: rows that the file has of steps before this one stay, the others go: they are of steps run again. None
            begins a new file.

    Raises:
        ConfigError: the file is not such a table.
    """

    def __init__(self, path: Path, upto: int | None = None) -> None:
        super().__init__()
        self._path = path
        try:
            self._kept = [] if upto is None else [row for row in read(path) if int(row["step"]) < upto]
        except (csv.Error, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no table of steps ({one_line(error)}); move it away to go on") from error
        self._columns: list[str] = []
        self._new: list[dict[str, Any]] = []
        self._when = time.monotonic()

    @property
    def name(self) -> str:
        """Lightning's name of a logger: the file's."""
        return self._path.name

    @property
    def version(self) -> str:
        """Lightning's version: the run folder's name."""
        return self._path.parent.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; without the pass in a test's, where Lightning counts otherwise once a run was resumed."""
        tested = any(key.startswith("test/") for key in metrics)
        self._new.append({**{key: metrics[key] for key in metrics if not (tested and key == "epoch")}, "step": step})
        if time.monotonic() - self._when > SECONDS:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Bring the rows to the file: appended, or with the whole file replaced where there are new columns."""
        self._when = time.monotonic()
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
            except OSError as error:  # a full disk takes a part
                error.filename = str(self._path)
                os.truncate(self._path, before)
                raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the last rows to the file."""
        self.save()


def read(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv; none where there is no such file, or where a kill cut the last one short."""
    try:
        content = read_bytes(path, LARGEST)
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
