"""One sentence on a table: its best row, compared with the row `none` or the first."""

from __future__ import annotations

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.report.contents import Group, Row
from dcnlab.ablations.tables import statistics
from dcnlab.ablations.tables.collect import CODE, WEIGHTS
from dcnlab.ablations.tables.comparison import bounds
from dcnlab.metrics import names as metric_names
from dcnlab.metrics.names import spoken


def metric_of(group: Group) -> str | None:
    """The metric that people read first."""
    return group.section.shown[0] if group.section.shown else None


def finding(group: Group) -> str:
    """The best row of a table against the one that it is compared with, in the table's first metric."""
    metric = metric_of(group)
    scored = [row for row in group.rows if metric is not None and row.figures.get(metric) is not None]
    if metric is None or not scored:
        return "No run of it has a score."
    if len(scored) == 1:
        only = f"{scored[0].label}, " if group.section.swept else ""
        return f"{spoken(metric)} is {figure(scored[0], metric)}: {only}{_count(scored[0].figures['seeds'], 'seed')}."
    top = min(scored, key=lambda row: rank(row, metric))
    word = "lowest" if metric_names.goal(metric) == "minimize" else "highest"
    text = f"{spoken(metric)} is {word} at {top.label}: {figure(top, metric)}"
    compared = [row for row in group.rows if row.figures.get(f"{metric}_difference") is not None]
    if top.figures[f"{metric}_difference"] is None:
        if top.figures["base"] and compared:
            bases = sum(row.figures["base"] for row in group.rows)
            return f"{text}, {'which the others are' if bases == 1 else 'which others are'} compared with."
        shared = [column for column in (CODE, WEIGHTS) if column in group.section.swept]
        same = f" of the same {' and '.join(shared)}" if shared else ""
        return f"{text}. There is no run{same} to compare it with."
    return f"{text}, {_against(group, top, metric)}."


def _against(group: Group, top: Row, metric: str) -> str:
    """The difference of the best row to its base row, its interval, and what that allows to conclude."""
    bases = [row for row in group.rows if row.figures["base"]]
    against = bases[0].label if len(bases) == 1 else "the row that it is compared with"
    text = f"{top.figures[f'{metric}_difference']:+.2f} against {against}"
    pairs = list(top.figures[f"{metric}_differences"].values())
    interval = bounds(top.figures, metric)
    if interval is None:
        return f"{text}. With {_count(len(pairs), 'seed')} that both have there is no interval over seeds"
    low, high = interval
    text += f" [{low:+.2f}, {high:+.2f}] over {len(pairs)} seeds that both have: {top.figures[f'{metric}_conclusion']}"
    if not statistics.can_be_significant(len(pairs)):
        return text
    sign = -1 if metric_names.goal(metric) == "minimize" else 1
    better = sum(sign * pair > 0 for pair in pairs)
    return f"{text}; better at {better} of them (p {top.figures[f'{metric}_p_holm']:.3g}, corrected by Holm's method)"


def rank(row: Row, metric: str | None) -> tuple[bool, float]:
    """Sorts rows, the best first and those without the metric last."""
    if metric is None:
        return True, 0.0
    return statistics.rank(row.figures.get(metric), metric_names.goal(metric))


def figure(row: Row, metric: str) -> str:
    """A row's mean and spread."""
    return f"{mean_and_std(row.figures[metric], row.figures[f'{metric}_std'])} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
