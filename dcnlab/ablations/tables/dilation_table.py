"""The paper's table 2: rows of measured layers next to the paper's, for one run or for all measured runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.tables import dilation_file, paper, paper_tables, statistics
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.dilation_file import CELL, FILE
from dcnlab.ablations.tables.run_record import Record
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.dilation_sizes import SIZES


def of_run(layers: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("layer",)) -> list[dict[str, Any]]:
    """Rows of one run's layers.

    Args:
        layers: the last layer of the network first; of each size None or a mapping of `dilation_file.CELL`.
        keys: of a layer, those that lead its row.

    Returns:
        Of each layer `keys`; SIZE_mean, SIZE_std and SIZE_count; and the paper's, see `beside`.
    """
    return [
        {key: layer[key] for key in keys}
        | {f"{size}_{key}": layer[size] and layer[size][key] for size in SIZES for key in CELL}
        | beside(number)
        for number, layer in enumerate(layers)
    ]


def beside(number: int) -> dict[str, Any]:
    """The paper's layer counted from the end, 0 for the last; None beyond its first layer.

    Returns:
        `paper_layer`, and of each size paper_SIZE_mean and paper_SIZE_std.
    """
    rows = paper.read("table2")["rows"]
    row = rows[number] if number < len(rows) else None
    named = {"paper_layer": row and row["layer"]}
    return named | {f"paper_{size}_{key}": row and row[size][at] for size in SIZES for at, key in enumerate(CELL[:2])}


def layout(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("layer",), caption: str = "", missing: str = "none"
) -> Block:
    """Rows of table 2 as people read them.

    Args:
        rows: as `of_run` and `of_records` give them.
        keys: of a row, those that lead its line.
        caption: goes above.
        missing: text of the cell of a size without a filter.
    """
    header = [*keys, *SIZES, "paper's layer", *(f"paper: {size}" for size in SIZES)]
    lines = []
    for row in rows:
        line = [str(row[key]) for key in keys]
        line += [mean_and_std(row[f"{size}_mean"], row[f"{size}_std"], missing=missing) for size in SIZES]
        line.append(row["paper_layer"] or "")
        line += [mean_and_std(row[f"paper_{size}_mean"], row[f"paper_{size}_std"], 1, missing="") for size in SIZES]
        lines.append(line)
    return Block(caption, header, lines)


def of_records(records: Sequence[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of all measured runs, and notes.

    Of each system and layer: `system`, `layer`, `seeds`, `code`; of each size SIZE_mean and SIZE_std, over filters,
    both averaged over the runs, SIZE_count, summed, SIZE_seeds_std, the standard deviation of the runs' means, and
    SIZE_means, by seed; and the paper's, see `beside`.

    Args:
        records: runs; those without a dilation.json do not count.

    Raises:
        ConfigError: none was measured.
    """
    systems: dict[str, list[tuple[Record, list[dict[str, Any]]]]] = {}
    unreadable = []
    for record in records:
        try:
            measured = dilation_file.read(record.folder)
        except ConfigError as error:
            unreadable.append(f"left out: {error}")
            continue
        if measured is not None:
            key = digest([record.without([]), record.code])
            systems.setdefault(key, []).append((record, measured.layers))
    if not systems:
        nothing = f"no run with a {FILE} found; measure some with: dcnlab dilation RUN"
        raise ConfigError(unreadable[0] if unreadable else nothing)
    firsts = [members[0][0] for members in systems.values()]
    titles = paper_tables.titles(firsts, "table2")
    rows = [row for title, members in zip(titles, systems.values(), strict=True) for row in _of_system(title, members)]
    return rows, [*unreadable, f"paper: {paper.read('table2')['data']}; ± is over filters", *_codes(firsts)]


def _of_system(title: str, members: Sequence[tuple[Record, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    rows = []
    for number, layer in enumerate(row["layer"] for row in members[0][1]):
        by_seed = {record.seed: row for record, layers in members for row in layers if row["layer"] == layer}
        row: dict[str, Any] = {"system": title, "layer": layer, "seeds": len(by_seed), "code": members[0][0].code}
        for size in SIZES:
            cells = {seed: of_seed[size] for seed, of_seed in by_seed.items() if of_seed.get(size)}
            for key in CELL[:2]:
                row[f"{size}_{key}"] = statistics.mean([cell[key] for cell in cells.values()])
            row[f"{size}_count"] = sum(cell["count"] for cell in cells.values())
            means = {seed: cell["mean"] for seed, cell in cells.items()}
            row[f"{size}_seeds_std"] = statistics.spread(means).std
            row[f"{size}_means"] = {str(seed): mean for seed, mean in means.items()}
        rows.append(row | beside(number))
    return rows


def _codes(firsts: Sequence[Record]) -> list[str]:
    codes = {record.code for record in firsts}
    return [f"the runs are of different code, in separate rows: {', '.join(sorted(codes))}"] if len(codes) > 1 else []
