"""One section of a table: rows that are compared with one another, and the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.tables import paper, paper_rows, statistics
from dcnlab.ablations.tables.collect import CODE, WEIGHTS, Collection
from dcnlab.ablations.tables.comparison import Comparison
from dcnlab.ablations.tables.counterpart import Counterpart, beside
from dcnlab.ablations.tables.paper import Label
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import names as metric_names
from dcnlab.training.run_folder import OFFSETS


@dataclass
class Section:
    """Rows that are compared with one another, at full precision."""

    title: str
    """Which system, where a table has several; may be empty."""
    swept: list[str]
    """The settings in which the rows differ, a column each."""
    metrics: list[str]
    """Metrics that any of its runs has, the sweep's own first."""
    shown: list[str]
    """Metrics that people are shown: none of single classes, no recalls."""
    rows: list[dict[str, Any]]
    """See `table.Table.rows`."""
    counterpart: Counterpart | None
    """The paper's values to compare with; None: it has no such system."""


def section(
    title: str,
    collection: Collection,
    table: str | None,
    comparison: Comparison,
    wanted: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Section:
    """Means, standard deviations (n - 1) and comparisons of a collection's rows.

    Args:
        title: of the section.
        collection: the rows, each with its runs.
        table: the paper's table that it repeats, or None.
        comparison: of all rows of the table.
        wanted: metrics to go first.
        only: metrics for people, where any run has one of them; empty: all headlines.
    """
    present = dict.fromkeys(key for row in collection.rows for runs in row.seeds for key in runs.metrics)
    metrics = [*(key for key in wanted if key in present), *(key for key in present if key not in wanted)]
    shown_metrics = [key for key in only if key in present] or [key for key in metrics if metric_names.is_headline(key)]
    counterpart = None if table is None else beside(table, collection.rows[0].settings)
    labels = [None if table is None else paper_rows.label(table, row.settings) for row in collection.rows]
    bases: list[int | None] = (
        [None] * len(labels) if collection.ranked else _bases(collection, comparison.options.against)
    )
    rows = []
    for row, label, base in zip(collection.rows, labels, bases, strict=True):
        other = None if base is None or collection.rows[base] is row else collection.rows[base]
        shown: dict[str, Any] = {name: row.parameters.get(name) for name in collection.swept}
        for metric in metrics:
            shown |= comparison.of(row, metric, other, images=metric in shown_metrics)
        if counterpart is not None and label is not None:
            shown |= _published(counterpart, label, None if other is None else labels[base or 0])
        results = [record.results for record in row.records]
        shown |= {"seeds": len(row.seeds), "seeds_wanted": row.wanted}
        shown |= {key: statistics.mean([result["model"].get(key) for result in results]) for key in ("params", "macs")}
        shown["train_seconds"] = statistics.mean([result["cost"].get("train_seconds") for result in results])
        shown |= {"base": base is not None and other is None, "runs": [str(record.folder) for record in row.records]}
        if counterpart is not None:
            shown |= {"paper": counterpart.title, "paper_differs": " ".join(counterpart.differs)}
        rows.append(shown)
    return Section(title, collection.swept, metrics, shown_metrics, rows, counterpart)


def _bases(collection: Collection, against: Sequence[tuple[str, Any]]) -> list[int | None]:
    """For each row the index of the row that it is compared with, of the same code and weights.

    That is the row of the settings `against`; else `none`, else the first. Both rows share all other swept parameters,
    such as the learning rate, but for those of a sweep's arms.
    """
    rows, modules = collection.rows, paper.VARIED["table3"]
    chosen = [key for key, _ in against]
    shared = (*modules, *chosen, *collection.of_arms, CODE, WEIGHTS, OFFSETS)
    others = [key for key in collection.swept if key not in shared]
    asked = any(key in modules for key in collection.swept)
    plain = [row for row in rows if asked and paper_rows.is_none(row.settings, collection.swept)]
    if against:
        plain = [row for row in rows if all(row.settings.get(key) == value for key, value in against)]
        if not plain:
            stated = ", ".join(f"{key}={value}" for key, value in against)
            known = sorted({f"{key}={row.settings.get(key)}" for row in rows for key in chosen})
            raise ConfigError(f"--against {stated}: no row has these settings; there are: {', '.join(known)}")
    bases: list[int | None] = []
    for row in rows:
        like = [other for other in plain if all(other.parameters[key] == row.parameters[key] for key in others)]
        wanted = {**(like or rows)[0].parameters, **{key: row.parameters.get(key) for key in (CODE, WEIGHTS)}}
        same = [
            at
            for at, other in enumerate(rows)
            if {**other.parameters, **{key: other.parameters.get(key) for key in (CODE, WEIGHTS)}} == wanted
        ]
        bases.append(same[0] if same else None)
    return bases


def _published(counterpart: Counterpart, label: Label, other: Label | None) -> dict[str, float]:
    """The paper's cells for a row, with differences to the paper's row that matches the base row."""
    cells = {}
    first = {} if other is None else counterpart.rows.get(other, {})
    for metric, value in counterpart.rows.get(label, {}).items():
        cells[f"paper_{metric}"] = value
        if metric in first:
            cells[f"paper_{metric}_difference"] = value - first[metric]
    return cells
