"""Rows of tests under other offsets: what `dcnlab evaluate RUN test.offsets=...` kept, paired with its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dcnlab.ablations.tables.collect import Collection
from dcnlab.ablations.tables.comparison import Comparison, bounds
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import Record
from dcnlab.config.training_checks import OFFSETS as KINDS
from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training import results_file
from dcnlab.training.run_folder import OFFSETS, RunFolder


def with_tests(collection: Collection) -> Collection:
    """The collection, with a row below each row for every value of `test.offsets` that its runs were tested under.

    Args:
        collection: of runs; one without such tests is returned as it is.
    """
    rows: list[Row] = []
    notes = list(collection.notes)
    for row in collection.rows:
        offsets = row.settings.get(OFFSETS, KINDS[0])
        deforms = row.settings.get("model.deform_layers") and row.settings.get("model.deform_kind") == "deformable"
        rows.append(replace(row, parameters={**row.parameters, OFFSETS: offsets if deforms else None}))
        for kind in KINDS:
            records = _tested(row.records, kind, notes)
            if records:
                changed = {OFFSETS: kind}
                parameters, settings = {**row.parameters, **changed}, {**row.settings, **changed}
                rows.append(replace(row, parameters=parameters, settings=settings, records=records))
    if len(rows) == len(collection.rows):
        return replace(collection, notes=notes)
    swept = [*(key for key in collection.swept if key != OFFSETS), OFFSETS]
    return replace(collection, swept=swept, rows=rows, notes=notes)


def notes_on_tests(collection: Collection, metrics: Sequence[str], comparison: Comparison) -> list[str]:
    """A line for each row of `with_tests`: its difference to the same runs at the offsets that they predict.

    Args:
        collection: from `with_tests`.
        metrics: that people are shown.
        comparison: of the table.
    """
    notes: list[str] = []
    tested: Row | None = None
    for row in collection.rows:
        if tested is None or not _same_runs(tested, row):
            tested = row
            continue
        for metric in metrics:
            cells = comparison.of(row, metric, tested, images=True)
            difference, interval = cells[f"{metric}_difference"], bounds(cells, metric)
            if difference is not None:
                outer = "" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]"
                conclusion = cells[f"{metric}_conclusion"]
                notes.append(
                    f"{_name(row, collection.swept)}: {metric} {difference:+.2f}{outer} {conclusion}, against the same "
                    f"runs under {OFFSETS} {tested.parameters[OFFSETS]}"
                )
    return notes


def _same_runs(tested: Row, row: Row) -> bool:
    """Whether a row is of the runs of another, under other offsets."""
    folders = {record.folder for record in tested.records}
    return bool(row.records) and all(record.folder.parent.parent in folders for record in row.records)


def _name(row: Row, swept: Sequence[str]) -> str:
    """The settings of a row in words."""
    values = [(key.rpartition(".")[2], row.parameters.get(key)) for key in swept]
    return ", ".join(f"{key} {value}" for key, value in values if value is not None)


def _tested(records: Sequence[Record], kind: str, notes: list[str]) -> list[Record]:
    """The kept tests of some runs under a value of `test.offsets`; a file that cannot be read gets a note."""
    tests = []
    for record in records:
        folder = RunFolder(record.folder).test_under(kind)
        path = RunFolder(folder).results
        if not path.is_file():
            continue
        try:
            results = {**record.results, "metrics": _metrics(path, kind)}
            results_file.check(results, str(path))
        except ConfigError as error:
            notes.append(f"left out: {error}")
            continue
        settings = {**record.settings, OFFSETS: kind}
        tests.append(replace(record, folder=folder, settings=settings, results=results))
    return tests


def _metrics(path: Path, kind: str) -> Any:
    """The metrics of a kept test.

    Raises:
        ConfigError: the file is not what `dcnlab evaluate` writes.
    """
    try:
        content: Any = json_file.load(path, results_file.MAX_BYTES)
        json_file.check_depth(content)
        if (content["schema"], content["settings"]) != (results_file.SCHEMA, {OFFSETS: kind}):
            raise ValueError(f"it is not of schema {results_file.SCHEMA} and {OFFSETS} {kind}")
        if not isinstance(content["metrics"], dict):
            raise ValueError("metrics is not a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"{path}: not what dcnlab evaluate writes ({reason}); evaluate the run again") from error
    return content["metrics"]
