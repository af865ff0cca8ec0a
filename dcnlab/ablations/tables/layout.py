"""Sections of a table as people read them: headers and cells of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcnlab.ablations.numbers import mean_and_std, number
from dcnlab.ablations.tables import statistics
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.comparison import bounds
from dcnlab.ablations.tables.counterpart import Counterpart, whole_table1
from dcnlab.ablations.tables.row_names import WITH_WORDS, label, row_names
from dcnlab.ablations.tables.section import Section

COSTS = ["seeds", "parameters", "MACs (M)", "seconds"]
"""Headers of what a row's runs cost."""

SETTING = "setting"
"""Header of the rows' names, where they differ in several settings."""


def blocks(sections: Sequence[Section], caption: str, orientation: bool = False) -> list[Block]:
    """A block for each section, ours next to the paper's.

    Args:
        sections: of the table.
        caption: of the whole; may be empty.
        orientation: whether to add the paper's whole table 1 below.
    """
    section_blocks = []
    for part in sections:
        words = [caption, part.title, _paper(part.counterpart)]
        header, lines, groups = grid([part])
        section_blocks.append(Block("; ".join(filter(None, words)), header, lines, groups))
        caption = ""
    return [*section_blocks, *([Block(*whole_table1())] if orientation else [])]


def grid(sections: Sequence[Section]) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and groups of columns of sections in one grid.

    A row short of seeds is marked. The groups are the rows' names, each metric, and the costs.
    """
    labels = list(dict.fromkeys(name for part in sections for name in part.swept))
    metrics = list(dict.fromkeys(name for part in sections for name in part.shown))
    rows = [(part.title, row) for part in sections for row in part.rows]
    several = len(sections) > 1
    worded = [name for name in labels if name in WITH_WORDS]
    others = labels if len(worded) < 2 else [name for name in labels if name not in worded]
    header = [name.rpartition(".")[2] for name in others]
    named = [[_label(name, row) for name in others] for _, row in rows]
    if others is not labels:
        names, header = row_names(worded, [row for _, row in rows]), [SETTING, *header]
        named = [[name, *cells] for name, cells in zip(names, named, strict=True)]
    header = [*(["system"] if several else []), *header]
    lines = [[*([title] if several else []), *names] for (title, _), names in zip(rows, named, strict=True)]
    groups = [len(header)]
    for metric in metrics:
        tested = any(statistics.can_be_significant(len(row.get(f"{metric}_differences", ()))) for _, row in rows)
        published = [part.counterpart for part in sections if part.counterpart and part.counterpart.has(metric)]
        powered = any(f"{metric}_seeds_for_one_point" in row for _, row in rows)
        before = len(header)
        header += [f"{metric} (%)", "difference [low, high]", *(["p (Holm)"] if tested else [])]
        header += ["seeds for 1 point"] if powered else []
        header += ["paper", "its difference"] if published else []
        groups.append(len(header) - before)
        for line, (_, row) in zip(lines, rows, strict=True):
            line += [_mean(row, metric), difference(row, metric)]
            line += [number(row.get(f"{metric}_p_holm"), ".3g")] if tested else []
            line += [number(row.get(f"{metric}_seeds_for_one_point"), ",d")] if powered else []
            if published:
                doubt = "" if all(counterpart.confirmed for counterpart in published) else " ?"
                line += [number(row.get(f"paper_{metric}"), ".1f", doubt)]
                line += [number(row.get(f"paper_{metric}_difference"), "+.1f", doubt)]
    header += COSTS
    groups.append(len(COSTS))
    for line, (_, row) in zip(lines, rows, strict=True):
        short = row["seeds"] < row["seeds_wanted"]
        line.append(f"{row['seeds']} of {row['seeds_wanted']} (!)" if short else str(row["seeds"]))
        macs = None if row["macs"] is None else row["macs"] / 1e6
        line += [number(row["params"], ",.0f"), number(macs, ".2f"), number(row["train_seconds"], ".1f")]
    return header, lines, groups


def _label(name: str, row: dict[str, Any]) -> str:
    """A swept setting's value; a rate of zero is the noise floor where offsets start at zero."""
    text = label(name, row.get(name))
    still = name == "optim.offset_lr_scale" and row.get(name) == 0
    deforms = row.get("model.deform_layers") != 0 and row.get("model.deform_kind", "deformable") == "deformable"
    return f"{text} (offsets stay zero)" if still and deforms else text


def difference(row: dict[str, Any], metric: str) -> str:
    """A row's difference to its base, with interval and conclusion, such as `+2.50 [-1.00, +5.00] no conclusion`."""
    text = number(row.get(f"{metric}_difference"), "+.2f")
    interval = bounds(row, metric)
    if interval is None:
        return text
    return f"{text} [{interval[0]:+.2f}, {interval[1]:+.2f}] {row[f'{metric}_conclusion']}"


def _mean(row: dict[str, Any], metric: str) -> str:
    mean, std = row.get(metric), row.get(f"{metric}_std")
    text = mean_and_std(mean, std)
    if mean is None:
        return text
    count = len(row[f"{metric}_values"])
    return text if count == row["seeds"] else f"{text} ({count} of {row['seeds']})"


def _paper(counterpart: Counterpart | None) -> str:
    if counterpart is None:
        return ""
    text = f"paper: {counterpart.title}"
    if not counterpart.differs:
        return text
    *others, last = counterpart.differs
    differs = f"{', '.join(others)} and {last}" if others else last
    return f"{text}; its {differs} {'differ' if others else 'differs'} from ours: compare differences, not levels"
