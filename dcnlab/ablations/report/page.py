"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dcnlab.ablations.report import gather, sections
from dcnlab.ablations.report.findings import finding
from dcnlab.ablations.report.gather import Report, Unfinished
from dcnlab.ablations.report.grid import grid
from dcnlab.ablations.report.markup import Child, Markup, breakable, el, join
from dcnlab.ablations.report.pictures import Album
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


_OF_PAPER = "From all runs above, whatever their names: those that fill two rows or more."


def render(report: Report) -> str:
    """The page."""
    css, js = (Path(__file__).with_name(f"report.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    # Nothing may load or run but what stands here: text that slipped through the escapes would do nothing.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"Ablations in {report.root}"
    album = Album()
    parts = [
        (f"group-{number}", group.title, sections.group(group, album)) for number, group in enumerate(report.groups, 1)
    ]
    if report.papers:
        tables = join(el("p", None, _OF_PAPER), *(sections.of_paper(table) for table in report.papers))
        parts.append(("paper", "The paper's tables", tables))
    if report.unfinished:
        parts.append(("unfinished", "Runs without a score", _unfinished(report.unfinished)))
    parts.append(("environment", "Environment", _environment(report)))
    parts.append(("reading", "How to read this", _reading()))
    contents = [("overview", "Overview"), *((name, heading) for name, heading, _ in parts)]
    links = [el("li", None, el("a", {"href": f"#{name}"}, breakable(heading))) for name, heading in contents]
    head = join(
        el("meta", {"charset": "utf-8"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        el("title", None, title),
        el("link", {"rel": "icon", "href": "data:,"}),
        el("style", None, Markup(css)),
    )
    body = join(
        el("a", {"class": "skip", "href": "#main"}, "Skip to the findings"),
        el("header", None, el("h1", None, "Ablations in ", el("code", None, str(report.root))), _lead(report)),
        el("nav", {"aria-label": "Contents"}, el("ul", None, *links)),
        el(
            "main",
            {"id": "main", "tabindex": "-1"},
            _section("overview", "Overview", _overview(report)),
            *(_section(name, heading, content) for name, heading, content in parts),
        ),
        el("footer", None, el("p", None, f"Written by dcnlab report on {time.strftime('%d %B %Y, %H:%M')}.")),
        el("p", {"id": "said", "class": "unseen", "role": "status"}),
        el("script", None, Markup(js)),
    )
    return f"<!DOCTYPE html>\n{el('html', {'lang': 'en'}, el('head', None, head), el('body', None, body))}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(name: str, heading: str, content: Markup) -> Markup:
    title = el("h2", {"id": f"{name}-heading"}, breakable(heading))
    return el("section", {"id": name, "aria-labelledby": f"{name}-heading"}, title, content)


def _lead(report: Report) -> Markup:
    seconds = sum(record.results["cost"].get("train_seconds") or 0.0 for record in report.records)
    states = Counter(broken.status for broken in report.unfinished)
    counted = [f"{len(report.records)} finished", *(f"{number} {state}" for state, number in states.items())]
    return el("p", {"class": "lead"}, f"Runs: {', '.join(counted)}. Time in training: {sections.duration(seconds)}.")


def _overview(report: Report) -> Markup:
    found = [
        el(
            "li",
            None,
            el("a", {"href": f"#group-{number}"}, group.title),
            ": ",
            finding(group),
        )
        for number, group in enumerate(report.groups, 1)
    ]
    parts = [el("ul", {"class": "findings"}, *found)] if found else [el("p", None, "No run has a score yet.")]
    if report.unfinished:
        count = len(report.unfinished)
        words = "1 run has no score" if count == 1 else f"{count} runs have no score"
        link = el("a", {"href": "#unfinished"}, words)
        parts.append(el("p", None, link, "; no table counts ", "it." if count == 1 else "them."))
    parts.append(sections.notes(report.notes))
    parts += [sections.kinds(name, report.groups) for name in _several(report)]
    return join(*parts)


def _several(report: Report) -> list[str]:
    """Names whose runs no one table can hold."""
    names = Counter(group.name for group in report.groups)
    return [name for name, count in names.items() if count > 1]


def _unfinished(broken: Sequence[Unfinished]) -> Markup:
    lines: list[list[Child]] = []
    for run in broken:
        further = "run its sweep again" if run.further is None else sections.command(run.further)
        lines.append([str(run.folder), run.status, run.settings, run.reason, further])
    return grid("Failed, interrupted and unfinished runs", ["run", "status", "settings", "reason", "go on"], lines)


def _environment(report: Report) -> Markup:
    names = list(dict.fromkeys(name for record in report.records for name in record.results["environment"]))
    lines = []
    for name in names:
        values = Counter(_said(record.results["environment"].get(name)) for record in report.records)
        several = len(values) > 1
        shown = [f"{value} ({count} {'run' if count == 1 else 'runs'})" for value, count in values.most_common()]
        lines.append([_ENVIRONMENT.get(name, name), "; ".join(shown) if several else next(iter(values))])
    if not lines:
        return el("p", None, "No finished run says where it ran.")
    return grid("What the finished runs were made with", ["item", "value"], lines)


def _said(value: object) -> str:
    return "none" if value is None else str(value)


_ENVIRONMENT = {"git": "git commit", "world_size": "processes in a run", "gpu": "GPU", "cpu": "CPU", "cuda": "CUDA"}


_READING = (
    "A figure with ± is a mean over seeds and their standard deviation (n - 1), percent.",
    "Differences are to the row without deformable modules, or else the first. A row short of seeds has a (!).",
    "Curves show the mean over a row's runs; the band goes from the lowest run to the highest.",
    "The paper's figures are of its own data and networks: compare trends, not levels.",
    "Runs that differ in any setting but the seed and what was swept never share a table.",
)


def _reading() -> Markup:
    return el("ul", None, *(el("li", None, line) for line in _READING))
