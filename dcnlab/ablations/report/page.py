"""Writes the report as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dcnlab.ablations.report import gather, overview, sections
from dcnlab.ablations.report.contents import Report, Unfinished
from dcnlab.ablations.report.grid import Command, Grid, Value, arrange
from dcnlab.ablations.report.pictures import Album
from dcnlab.ablations.report.template import environment, raw
from dcnlab.io.atomic import write_whole


def write(root: Path, out: Path | None = None, any_code: bool = False) -> Path:
    """Write the report on all runs below a folder.

    Args:
        root: the folder.
        out: the file; None is ROOT/report.html.
        any_code: whether runs of different code share rows.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such folder, or no run in it.
    """
    text = render(gather.report(root, any_code))
    path = out or root / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def render(report: Report) -> str:
    """The page."""
    css, js = raw("report.css"), raw("report.js")
    # Only this page's own style and script may load, so that text that was not escaped runs nothing.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}; "
        "base-uri 'none'; form-action 'none'"
    )
    album = Album()
    states = Counter(run.status for run in report.unfinished)
    counted = [f"{len(report.records)} finished", *(f"{number} {state}" for state, number in states.items())]
    seconds = sum(record.results["cost"].get("train_seconds") or 0.0 for record in report.records)
    return (
        environment()
        .get_template("report.html")
        .render(
            policy=policy,
            css=css,
            js=js,
            root=str(report.root),
            counted=", ".join(counted),
            trained=_duration(seconds),
            overview=overview.of_groups(report.groups, album),
            groups=[sections.of_group(group, album) for group in report.groups],
            report_notes=report.notes,
            kinds=[sections.kinds(name, report.groups) for name in _several(report)],
            papers=[sections.of_paper(table) for table in report.papers],
            unfinished=_unfinished(report.unfinished),
            environment=_environment(report),
            written=time.strftime("%d %B %Y, %H:%M"),
        )
        + "\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _several(report: Report) -> list[str]:
    """Names whose runs need more than one table."""
    names = Counter(group.name for group in report.groups)
    return [name for name, count in names.items() if count > 1]


def _unfinished(runs: Sequence[Unfinished]) -> Grid | None:
    if not runs:
        return None
    lines: list[list[Value]] = []
    for run in runs:
        further = "run its sweep again" if run.further is None else Command(run.further)
        lines.append([str(run.folder), run.status, run.settings, run.reason, further])
    header = ["run", "status", "settings", "reason", "continue with"]
    return arrange("Failed, interrupted and unfinished runs", header, lines)


def _environment(report: Report) -> Grid | None:
    names = list(dict.fromkeys(name for record in report.records for name in record.results["environment"]))
    lines = []
    for name in names:
        values = Counter(_text(record.results["environment"].get(name)) for record in report.records)
        shown = [f"{value} ({count} {'run' if count == 1 else 'runs'})" for value, count in values.most_common()]
        lines.append([_ENVIRONMENT.get(name, name), "; ".join(shown) if len(values) > 1 else next(iter(values))])
    return arrange("What the finished runs were made with", ["item", "value"], lines, stacks=False) if lines else None


def _text(value: object) -> str:
    return "none" if value is None else str(value)


_ENVIRONMENT = {"git": "git commit", "world_size": "ranks of a run", "gpu": "GPU", "cpu": "CPU", "cuda": "CUDA"}
