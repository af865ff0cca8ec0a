"""Reads runs from the API of Weights & Biases in the form of run folders."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dcnlab.ablations.tables.run_record import Record
from dcnlab.config import identity
from dcnlab.config.load import from_yaml
from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training import results_file
from dcnlab.training.loggers import wandb_run

_PAGE = 100
_SECONDS = 60


def records(path: str) -> tuple[list[Record], list[str]]:
    """Every run of a sweep or project that was mirrored there, and notes on those that cannot be read.

    Args:
        path: ENTITY/PROJECT/SWEEP, or ENTITY/PROJECT for all its runs.

    Raises:
        ConfigError: the path is of another form, there is no key, or no such project or sweep; one line.
    """
    parts = path.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"--wandb is {path!r}; it must be ENTITY/PROJECT/SWEEP, or ENTITY/PROJECT for all its runs")
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ConfigError(f"--wandb {path}: there is no key: run `wandb login`, or set WANDB_API_KEY")
    try:
        api = wandb.Api(timeout=_SECONDS)
        filters = {}
        if len(parts) == 3:
            filters = {"sweep": api.sweep(path).id}
        listed = api.runs("/".join(parts[:2]), filters=filters, per_page=_PAGE, lazy=False)
        readable, notes, unread = [], [], Counter[str]()
        for run in listed:
            if wandb_run.TABLE in run.config:
                continue
            try:
                record = _record(parts[0], parts[1], run)
            except ConfigError as error:
                notes.append(f"left out: {one_line(error)}")
                continue
            if isinstance(record, str):
                unread[record] += 1
            else:
                readable.append(record)
    except (wandb.Error, ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--wandb {path}: {one_line(error)}") from error
    notes += [f"left out: {count} {'run' if count == 1 else 'runs'} {why}" for why, count in unread.items()]
    return readable, notes


def _record(entity: str, project: str, run: Any) -> Record | str:
    """A run of Weights & Biases as a `Record`, or the reason why it is not one.

    Raises:
        ConfigError: what it mirrors does not fit.
    """
    place = f"{entity}/{project}/{run.id}"
    text, written = run.config.get(wandb_run.CONFIG), run.summary.get(wandb_run.RESULTS)
    if text is None:
        return "that no dcnlab mirrored, or one before it could"
    if written is None:
        return f"{run.state} without results"
    config = from_yaml(text, place)
    try:
        results = json_file.parse(written)
        json_file.check_depth(results)
    except ValueError as error:
        raise ConfigError(f"{place}: {wandb_run.RESULTS} is not JSON ({error})") from error
    results_file.check(results, place)
    when = datetime.fromisoformat(str(run.created_at).replace("Z", "+00:00"))
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    folder = Path(entity, project, config.name, run.id)
    return Record(folder, identity.settings(config), results, when.timestamp())
