"""The mirror of a run on Weights & Biases: config, results, tables and plots, enough to build tables from there."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from dcnlab.config import agent_parameters, identity
from dcnlab.config.load import to_yaml
from dcnlab.config.schema import Config
from dcnlab.io.text import one_line, say
from dcnlab.metrics.names import is_headline
from dcnlab.training.run_folder import RunFolder

CONFIG, RESULTS = agent_parameters.RECORDED, "dcnlab_results"
"""Keys of the text of config.yaml in a run's config, and of results.json in its summary. They are text, because wandb
lets a sweep's parameters replace whole sections of the config, and changes the format of numbers."""

SWEEP = "DCNLAB_SWEEP"
"""Environment variable with the digest of the sweep that `dcnlab sweep` runs, and its key in a run's config. It is no
sweep ID of wandb's: a server refuses runs of a sweep that it does not know."""
ROW = "dcnlab_row"
"""Key in a run's config of its row in the sweep's table. Grouped by it, wandb's pages show the means of the table."""
TABLE = "dcnlab_table"
"""Key in the config of a run that holds a table of other runs: the table's title."""
STEP = "trainer/global_step"
"""The x axis of every curve: steps of the optimizer."""

_BEST = {"train/loss": "min", "val/*": "max", "test/*": "max"}
FAMILIES = ("train/*", "offsets/*", "pictures/*", "tables/*", "figures/*", "val/*", "test/*")
"""Names that `define` gives their x axis."""
_AGGREGATES = ("max", "min")


def config(config: Config, sweep: str | None = None) -> dict[str, Any]:
    """The run's config on wandb.

    Args:
        config: of the run.
        sweep: digest of the sweep that `dcnlab sweep` runs.
    """
    digest = {} if sweep is None else {SWEEP.lower(): sweep}
    row = ", ".join(f"{key}={value}" for key, value in config.sweep.items() if key not in identity.REPEATS)
    return {**dataclasses.asdict(config), CONFIG: to_yaml(config), ROW: row or config.name, **digest}


def define(run: Any) -> None:
    """Declare the x axis of the curves, and for each metric whether its minimum or maximum is the run's summary."""
    run.define_metric(STEP)
    for name in (*FAMILIES, *_BEST):  # not "*", which would win over the names of _BEST
        run.define_metric(name, summary=_BEST.get(name), step_metric=STEP, step_sync=True)


def finish(
    run: Any, config: Config, folder: RunFolder, results: dict[str, Any], unreachable: str | None = None
) -> None:
    """Close the mirror: tables, plots, final metrics in the summary; the checkpoint where `logger.artifacts` is set.

    Args:
        run: wandb's.
        config: the run's.
        folder: the run folder.
        results: what results.json holds.
        unreachable: why wandb's server does not answer; tables, plots and the checkpoint then stay here.
    """
    with staged_in(str(folder.wandb.resolve())):
        if unreachable is None:
            _log_files(run, config, folder, results)
        run.summary.update(_best(dict(run.summary)))
        costs = {key: value for key, value in results["cost"].items() if value is not None}
        tested = {f"test/{key}": value for key, value in results["metrics"].items()}
        run.summary.update({**results["metrics"], **tested, **results["model"], **costs, RESULTS: json.dumps(results)})
        _close(run, folder, 0 if results["status"] == "finished" else 1, unreachable)


def _log_files(run: Any, config: Config, folder: RunFolder, results: dict[str, Any]) -> None:
    """Log tables, plots, and the checkpoint where `logger.artifacts` is set."""
    import wandb

    try:
        _log_tables_and_plots(run, folder, results)
        if config.logger.artifacts and results["status"] == "finished":
            artifact = wandb.Artifact(f"{config.name}-{config.id}", "model", metadata=results["metrics"])
            # In place, without a copy. An absolute path, as `wandb sync` may be called from anywhere.
            artifact.add_file(str(folder.checkpoint.resolve()), policy="immutable")
            run.log_artifact(artifact)
    except wandb.Error as error:  # wandb asks the server for the artifact's name at once
        _warn(f"wandb's server did not take tables, plots or the checkpoint ({one_line(error)})")


def _close(run: Any, folder: RunFolder, status: int, unreachable: str | None) -> None:
    """Wait until the server has the run; after `finish_timeout` leave the rest to `wandb sync`, and say so once.

    wandb's own lines about that are left out.
    """
    seconds, later = run.settings.finish_timeout, f"`wandb sync --include-online {shlex.quote(run.settings.sync_dir)}`"
    if unreachable is not None:
        gone = f"wandb's server does not answer ({unreachable})"
        _warn(f"{gone}; the results are in {folder}, and {later} sends what it does not take within {seconds:g} s")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            run.finish(exit_code=status)
    except TimeoutError:
        if unreachable is None:
            _warn(f"wandb's server did not take all of the run within {seconds:g} s; {later} sends the rest")
    else:
        if printed.getvalue():
            say(printed.getvalue().rstrip(), sys.stderr, block=True)


def _warn(text: str) -> None:
    logging.getLogger("dcnlab").warning(text)


@contextlib.contextmanager
def staged_in(folder: str) -> Iterator[None]:
    """Have wandb stage uploads in a folder, not in the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _log_tables_and_plots(run: Any, folder: RunFolder, results: dict[str, Any]) -> None:
    import wandb

    logged: dict[str, Any] = {}
    for name, (columns, rows) in tables(results).items():
        logged[f"tables/{name}"] = wandb.Table(columns, rows)
    for path in sorted(folder.figures.glob("*.png")):
        logged[f"figures/{path.stem}"] = wandb.Image(str(path))
    if logged:
        run.log(logged)


def tables(results: dict[str, Any]) -> dict[str, tuple[list[Any], list[Any]]]:
    """Columns and rows of a run's tables: `metrics`, the headline metrics, and `classes`, those of a class; percent."""
    metrics: dict[str, float] = results["metrics"]
    by_name: dict[str, tuple[list[Any], list[Any]]] = {}
    headlines: list[Any] = [[key, value] for key, value in metrics.items() if is_headline(key)]
    if headlines:
        by_name["metrics"] = (["metric", "percent"], headlines)
    split = [key.partition("/")[::2] for key in metrics if "/" in key]
    families = list(dict.fromkeys(family for family, _ in split))
    names = dict.fromkeys(name for _, name in split)
    if names:
        rows: list[Any] = [[name, *(metrics.get(f"{family}/{name}") for family in families)] for name in names]
        by_name["classes"] = (["class", *families], rows)
    return by_name


def _best(summary: dict[str, Any]) -> dict[str, float]:
    """The summaries of `define` as plain numbers: a sweep that optimises one looks for a number under its name."""
    best = {}
    for name, value in summary.items():
        kinds = [kind for kind in _AGGREGATES if hasattr(value, "keys") and set(value.keys()) == {kind}]
        if kinds:
            best[name] = value[kinds[0]]
    return best
