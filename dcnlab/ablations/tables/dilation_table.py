"""The paper's table 2 from whatever runs `dcnlab dilation` has measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.sweep_file import digest
from dcnlab.ablations.tables import paper, paper_tables, statistics
from dcnlab.ablations.tables.render import Block
from dcnlab.ablations.tables.run_record import Record
from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.effective_dilation import SIZES
from dcnlab.training import results_file

FILE = "dilation.json"
_KEYS = ("mean", "std", "count")


def rows(found: Sequence[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows at full precision, and notes.

    Of each system and layer: `system`, `layer`, `seeds`; of each size of what the filter's centre lies on SIZE_mean and
    SIZE_std, over filters, both averaged over the runs, SIZE_count, summed, SIZE_seeds_std, the deviation of the runs'
    means, and SIZE_means, by seed; `code`; and `paper_layer`, paper_SIZE_mean and paper_SIZE_std, of the layer at the
    same place from the end.

    Args:
        found: runs; those without a dilation.json do not count.

    Raises:
        ConfigError: none was measured.
    """
    groups: dict[str, list[tuple[Record, list[dict[str, Any]]]]] = {}
    broken = []
    for one in found:
        try:
            lines = _read(one.folder / FILE)
        except ConfigError as error:
            broken.append(f"left out: {error}")
            continue
        if lines is not None:
            groups.setdefault(digest([one.without([]), one.code]), []).append((one, lines))
    if not groups:
        raise ConfigError(
            broken[0] if broken else f"no run with a {FILE} found; measure some with: dcnlab dilation RUN"
        )
    firsts = [members[0][0] for members in groups.values()]
    titles = paper_tables.titles(firsts, "table2")
    made = [row for title, members in zip(titles, groups.values(), strict=True) for row in _of_system(title, members)]
    return made, [*broken, f"paper: {paper.read('table2')['data']}; ± is over filters", *_unlike(firsts)]


def _of_system(title: str, members: Sequence[tuple[Record, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    made = []
    layers = [row["layer"] for row in members[0][1]]
    for number, layer in enumerate(layers):
        measured = {one.seed: row for one, lines in members for row in lines if row["layer"] == layer}
        made.append({"system": title, "layer": layer, "seeds": len(measured), "code": members[0][0].code})
        for size in SIZES:
            cells = {str(seed): row[size] for seed, row in measured.items() if row.get(size)}
            for key in _KEYS[:2]:
                made[-1][f"{size}_{key}"] = statistics.mean([cell[key] for cell in cells.values()])
            made[-1][f"{size}_count"] = sum(cell["count"] for cell in cells.values())
            means = {seed: cell["mean"] for seed, cell in cells.items()}
            made[-1][f"{size}_seeds_std"] = statistics.spread({int(seed): mean for seed, mean in means.items()}).std
            made[-1][f"{size}_means"] = means
        published = paper.read("table2")["rows"]
        theirs = published[number] if number < len(published) else None
        made[-1]["paper_layer"] = theirs and theirs["layer"]
        for size in SIZES:
            made[-1] |= {f"paper_{size}_{key}": theirs and theirs[size][at] for at, key in enumerate(_KEYS[:2])}
    return made


def _read(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a dilation.json; None where there is none."""
    try:
        tree = json_file.load(path, results_file.MAX_BYTES)
        json_file.check_depth(tree)
        lines = list(tree["rows"])
        if not all(map(_is_row, lines)):
            raise ValueError("a row")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not what dcnlab dilation writes; measure it again") from error
    return lines


def _is_row(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("layer"), str):
        return False
    cells = [line[size] for size in SIZES if line.get(size)]
    return set(SIZES) <= set(line) and all(isinstance(cell, dict) and _is_cell(cell) for cell in cells)


def _is_cell(cell: dict[str, Any]) -> bool:
    numbers = [cell.get(key) for key in _KEYS]
    return set(_KEYS) <= set(cell) and all(
        value is None or (type(value) in (int, float) and -1e300 < value < 1e300) for value in numbers
    )


def _unlike(firsts: Sequence[Record]) -> list[str]:
    codes = {one.code for one in firsts}
    return [f"the runs are of different code, told apart: {', '.join(sorted(codes))}"] if len(codes) > 1 else []


def block(found: Sequence[dict[str, Any]], caption: str) -> Block:
    """The rows as people read them."""
    header = ["system", "layer", "seeds", *SIZES, "paper", *(f"paper: {size}" for size in SIZES)]
    lines = []
    for row in found:
        line = [row["system"], row["layer"], str(row["seeds"])]
        line += [_cell(row, size, ".2f") for size in SIZES]
        line.append(row["paper_layer"] or "")
        line += [_cell(row, f"paper_{size}", ".1f") if row["paper_layer"] else "" for size in SIZES]
        lines.append(line)
    return Block(caption, header, lines)


def _cell(row: dict[str, Any], size: str, form: str) -> str:
    mean, std = row[f"{size}_mean"], row[f"{size}_std"]
    if mean is None:
        return "none"
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"
