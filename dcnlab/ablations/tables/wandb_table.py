"""Sends a table to Weights & Biases, as a run of the type `table`: the table, and a bar chart of each metric."""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

from dcnlab.ablations.tables import render
from dcnlab.ablations.tables.table import Table
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training.loggers import wandb_run, wandb_start


def send(table: Table, path: str) -> str:
    """Send a table; the same table sent again replaces the one before.

    Args:
        table: of any kind.
        path: ENTITY/PROJECT, or PROJECT of the user's own entity.

    Returns:
        The address of its page.

    Raises:
        ConfigError: the path is of another form, there is no key, or the server does not take the table; one line.
    """
    entity, _, project = path.rpartition("/")
    if not project or "/" in entity or path.startswith("/"):
        raise ConfigError(f"--to-wandb is {path!r}; it must be ENTITY/PROJECT or PROJECT")
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ConfigError(f"--to-wandb {path}: there is no key: run `wandb login`, or set WANDB_API_KEY")
    if reason := wandb_start.unreachable():
        raise ConfigError(f"--to-wandb {path}: wandb's server does not answer ({reason})")
    with tempfile.TemporaryDirectory() as folder, wandb_run.staged_in(folder):
        try:
            run = _start(table, entity or None, project, folder)
            run.log(_contents(table))
            run.finish()
        except (wandb.Error, TimeoutError) as error:
            raise ConfigError(f"--to-wandb {path}: {one_line(error)}") from error
        return str(run.url)


def _start(table: Table, entity: str | None, project: str, folder: str) -> Any:
    """Start the table's run, whose ID follows from the title."""
    import wandb

    return wandb.init(
        id=f"table-{hashlib.sha256(table.title.encode()).hexdigest()[:12]}",
        resume="allow",
        entity=entity,
        project=project,
        name=f"table: {table.title}",
        job_type="table",
        dir=folder,
        mode="online",
        config={wandb_run.TABLE: table.title},
        settings=wandb.Settings(
            silent=True,
            disable_git=True,
            x_disable_stats=True,
            finish_timeout=wandb_start.finish_seconds(wandb_start.FINISH_SECONDS),
            finish_timeout_raises=True,
        ),
    )


def _contents(table: Table) -> dict[str, Any]:
    """The table at full precision, and a bar chart of the rows' means for each metric that people are shown."""
    import wandb

    columns, rows = render.flat(table.rows)
    logged: dict[str, Any] = {"table": wandb.Table(columns, rows, allow_mixed_types=True)}
    for metric in dict.fromkeys(name for section in table.sections for name in section.shown):
        bars: list[Any] = [[row_of(table, row), row[metric]] for row in table.rows if row.get(metric) is not None]
        if bars:
            chart = wandb.Table([wandb_run.ROW, metric], bars)
            logged[f"chart/{metric}"] = wandb.plot.bar(chart, wandb_run.ROW, metric, title=f"{table.title}: {metric}")
    return logged


def row_of(table: Table, row: dict[str, Any]) -> str:
    """A row's name, as `dcnlab_row` of the runs in it: the settings in which rows differ."""
    names = ([row["system"]] if row.get("system") else []) + [f"{key}={row.get(key)}" for key in table.swept]
    return ", ".join(names) or table.title
