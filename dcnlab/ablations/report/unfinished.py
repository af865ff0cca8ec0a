"""Runs without a final score: why, and the command that resumes them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations.report.contents import Unfinished
from dcnlab.ablations.tables.row_names import value_text
from dcnlab.ablations.tables.run_record import Record
from dcnlab.config.experiment_files import read_parameters
from dcnlab.config.keys import parameters_of
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_tail
from dcnlab.training import run_search
from dcnlab.training.run_folder import RunFolder


def unfinished_runs(root: Path, records: Sequence[Record]) -> list[Unfinished]:
    """Runs without a score: failed, interrupted, still running, killed or never started."""
    results = {record.folder: record for record in records}
    folders = {path.parent for path in root.glob("**/parameters.json") if "wandb" not in path.relative_to(root).parts}
    broken = []
    for folder in sorted(folders | set(run_search.discover([root]))):
        record = results.get(folder)
        if record is None and (folder / "results.json").exists():
            continue  # the notes name files that cannot be read
        if record is not None and record.finished:
            continue
        status = "unfinished" if record is None else record.results["status"]
        parameters = _parameters(folder) if record is None else record.results["parameters"]
        reason = "" if record is None else str(record.results.get("reason") or "")
        if not reason and status == "interrupted":
            reason = "stopped from outside"
        if not reason:
            reason = f"no results: still running, or killed. {_last_line(folder / 'log.txt')}".strip()
        settings = ", ".join(f"{key} {value_text(value, 'not set')}" for key, value in parameters.items())
        broken.append(Unfinished(folder, status, settings, reason, _further(folder)))
    return broken


def _further(folder: Path) -> str | None:
    config = folder / "config.yaml"
    if not config.is_file():
        return None
    if (RunFolder(folder).checkpoint).is_file():
        return shlex.join(["dcnlab", "resume", str(folder)])
    return shlex.join(["dcnlab", "fit", str(config)])


def _parameters(folder: Path) -> dict[str, Any]:
    try:
        return parameters_of(read_parameters(folder / "parameters.json"))
    except ConfigError:
        return {}


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in read_tail(log) if line.strip()]
    except OSError:
        return ""
    return f"Its log ends with: {lines[-1].strip()}" if lines else ""
