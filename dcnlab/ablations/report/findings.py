"""What a table shows, in a sentence: figures alone, no judgement that they do not bear."""

from __future__ import annotations

import re

from dcnlab import runs
from dcnlab.ablations.report.gather import Group, Row


def headlines(group: Group) -> list[str]:
    """The metrics of a table that people read first."""
    return [metric for metric in group.table.metrics if runs.is_headline(metric)]


def finding(group: Group) -> str:
    """The best row of a table against its first, in the table's first metric."""
    metrics = headlines(group)
    scored = [at for at, row in enumerate(group.table.rows) if metrics and row.get(metrics[0]) is not None]
    if not scored:
        return "No run of it has a score."
    metric, rows = metrics[0], group.table.rows
    if len(scored) == 1:
        seeds = rows[scored[0]]["seeds"]
        only = f"{group.rows[scored[0]].label}, " if group.table.swept else ""
        return f"{metric} is {_figure(group, scored[0], metric)}: {only}{_count(seeds, 'seed')}."
    sign = -1 if lower_is_better(metric) else 1
    top = min(scored, key=lambda at: rank(group, at))
    word = "lowest" if sign < 0 else "highest"
    text = f"{metric} is {word} at {group.rows[top].label}: {_figure(group, top, metric)}"
    if 0 not in scored:
        return f"{text}. The first row, {group.rows[0].label}, has no run to compare with."
    if top == 0:
        return f"{text}, which is the first row: no other setting is better."
    text += f", {rows[top][metric] - rows[0][metric]:+.2f} against {group.rows[0].label}"
    better, pairs = paired(group.rows[0], group.rows[top], metric, sign)
    if pairs:
        text += f"; better at {better} of {_count(pairs, 'seed')} that both have"
    spread = max((rows[at][f"{metric}_std"] or 0.0) for at in (0, top))
    if spread:
        gap = abs(rows[top][metric] - rows[0][metric])
        side = "more" if gap > spread else "less"
        text += f". The difference is {side} than the larger of the two standard deviations ({spread:.2f})"
    else:
        text += ". Without more seeds nothing is known of the spread"
    return f"{text}."


def best(group: Group) -> tuple[str, str] | None:
    """A table's first metric and the best mean in it; None without any."""
    metrics = headlines(group)
    scored = [at for at, row in enumerate(group.table.rows) if metrics and row.get(metrics[0]) is not None]
    if not scored:
        return None
    top = min(scored, key=lambda at: rank(group, at))
    return metrics[0], _figure(group, top, metrics[0]).removesuffix(" %")


def rank(group: Group, at: int) -> tuple[bool, float]:
    """Sorts rows by the first metric, the best first and those without it last."""
    metrics = headlines(group)
    mean = group.table.rows[at].get(metrics[0]) if metrics else None
    if mean is None:
        return True, 0.0
    return False, mean if lower_is_better(metrics[0]) else -mean


def paired(first: Row, other: Row, metric: str, sign: int) -> tuple[int, int]:
    """At how many of the seeds that two rows share the other is better, and how many they share."""
    mine, theirs = (
        {record.results["seed"]: record.results["metrics"].get(metric) for record in row.records}
        for row in (first, other)
    )
    shared = [seed for seed in mine if mine[seed] is not None and theirs.get(seed) is not None]
    return sum(sign * (theirs[seed] - mine[seed]) > 0 for seed in shared), len(shared)


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is more: losses and errors."""
    return re.search(r"loss|error", metric) is not None


def _figure(group: Group, at: int, metric: str) -> str:
    row = group.table.rows[at]
    std = row[f"{metric}_std"]
    return f"{row[metric]:.2f} %" if std is None else f"{row[metric]:.2f} ± {std:.2f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
