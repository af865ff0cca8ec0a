"""Rows of a table and the runs behind them; those of the runs that share a name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import Record, differences
from dcnlab.config.identity import REPEATS
from dcnlab.io.errors import ConfigError

CODE = "code"
"""The column that a table has where its runs are of different code."""
WEIGHTS = "weights"
"""The column that a table has where its runs began with different weights."""
_WEIGHTS_KEY = "model.backbone.weights"


@dataclass
class Collection:
    """The rows of a table, before they are compared."""

    swept: list[str]
    """Parameters that differ between rows."""
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    """Lines to print below the table."""
    of_arms: list[str] = field(default_factory=list)
    """Those of them that an `arm` of the sweep sets together, see `keys.parameters_of`."""
    ranked: bool = False
    """Whether the rows have no natural order, as a random search's."""

    @property
    def used(self) -> list[Record]:
        """The runs of all rows."""
        return [record for row in self.rows for record in row.records]


def of_name(name: str, records: Sequence[Record], any_code: bool = False) -> Collection:
    """The runs in folders called `name`, grouped by the parameters in their results.json.

    Raises:
        ConfigError: there are none, or they differ in settings that no sweep set.
    """
    chosen = [record for record in records if record.name == name]
    if not chosen:
        known = sorted({record.name for record in records})
        raise ConfigError(f"{name} is neither a sweep nor the name of runs; there are: {', '.join(known) or 'no runs'}")
    refuse_mixture(chosen)
    names = list(dict.fromkeys(key for record in chosen for key in record.results["parameters"]))
    collection = Collection([key for key in names if key not in REPEATS], [])
    groups: dict[str, list[Record]] = {}
    for record in sorted(chosen, key=lambda record: record.seed):
        groups.setdefault(key_of(record.results["parameters"], collection.swept), []).append(record)
    best = {id(record) for record in newest(chosen, collection.notes, any_code)}
    for members in groups.values():
        parameters = {key: members[0].results["parameters"].get(key) for key in collection.swept}
        counted = [record for record in members if id(record) in best]
        collection.rows.append(Row(parameters, counted, seeds_of(members), members[0].settings))
    collection.rows.sort(key=lambda row: [_order(row.parameters[key]) for key in collection.swept])
    separate_rows(collection, any_code)
    return collection


def newest(
    chosen: Sequence[Record],
    notes: list[str],
    any_code: bool,
    same: Callable[[Record], Any] = lambda record: [record.results["parameters"], record.seed],
) -> list[Record]:
    """One finished run of each kind and code: the newest, with a note where there were more.

    Args:
        chosen: runs.
        notes: takes a line for each run that does not count.
        any_code: whether runs that differ in code alone are the same.
        same: gives equal values for two runs of one kind.
    """
    best: dict[str, Record] = {}
    for record in sorted(filter(lambda record: record.finished, chosen), key=lambda record: record.written):
        key = digest([same(record), record.fold, record.weights, None if any_code else record.code])
        if key in best:
            notes.append(f"two runs are the same: {record.folder} counts, the older {best[key].folder} does not")
        best[key] = record
    statuses = Counter(record.results["status"] for record in chosen if not record.finished)
    for status, count in statuses.items():
        notes.append(f"{count} {'run' if count == 1 else 'runs'} {status} and not counted")
    return list(best.values())


def separate_rows(collection: Collection, any_code: bool = False) -> None:
    """Give runs of different weights or code separate rows, or with `any_code` note that codes share rows.

    Runs on different hardware keep their rows, with a note: hardware alters costs more than scores.
    """
    used = collection.used
    _separate_weights(collection)
    codes = Counter(record.code for record in used)
    if len(codes) > 1:
        shown = ", ".join(f"{code} ({count})" for code, count in codes.items())
        how = "joined by --any-code" if any_code else "in separate rows by the column code; --any-code joins them"
        collection.notes.append(f"the runs are of different code: {shown}; {how}")
        if not any_code:
            collection.swept = [*collection.swept, CODE]
            collection.rows = _divided(collection.rows, CODE, list(codes), lambda record: record.code)
    dirty = [code for code, count in codes.items() if code.endswith("-dirty") and count > 1]
    if dirty:
        collection.notes.append(
            f"{', '.join(dirty)} is code that no commit holds: its runs may differ among themselves"
        )
    for key in ("torch", "gpu"):
        values = Counter(str(record.results["environment"].get(key)) for record in used)
        if len(values) > 1:
            counted = ", ".join(f"{value} ({count})" for value, count in values.items())
            collection.notes.append(f"the runs were not made alike: {key} is {counted}")


def _separate_weights(collection: Collection) -> None:
    """Give runs whose backbones began with different weights separate rows, where the sweep did not set them."""
    weights = Counter(record.weights for record in collection.used)
    mixed = any(len({record.weights for record in row.records}) > 1 for row in collection.rows)
    if len(weights) > 1 and (mixed or _WEIGHTS_KEY not in collection.swept):
        shown = ", ".join(f"{name} ({count})" for name, count in weights.items())
        collection.notes.append(f"the runs began with different weights: {shown}; in separate rows")
        collection.swept = [*collection.swept, WEIGHTS]
        collection.rows = _divided(collection.rows, WEIGHTS, list(weights), lambda record: record.weights)


def _divided(rows: Sequence[Row], column: str, values: Sequence[str], of: Callable[[Record], str]) -> list[Row]:
    """Rows split by the values of the new column; a row without runs stays, with None there."""
    divided: list[Row] = []
    for row in rows:
        parts = [(value, [record for record in row.records if of(record) == value]) for value in values]
        kept: list[tuple[str | None, list[Record]]] = [(value, part) for value, part in parts if part]
        kept = kept or [(None, [])]
        divided += [replace(row, parameters={**row.parameters, column: value}, records=part) for value, part in kept]
    return divided


def seeds_of(records: Sequence[Record]) -> int:
    """The number of different seeds; runs of different code may share a seed."""
    return len({record.seed for record in records})


def key_of(parameters: dict[str, Any], swept: Sequence[str]) -> str:
    """The values of the swept parameters as text, which is equal for runs of one row."""
    return json.dumps([parameters.get(name) for name in swept], default=list)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, value, "") if isinstance(value, int | float) else (1, 0.0, str(value))


def refuse_mixture(records: Sequence[Record]) -> None:
    """Check that runs share all settings but the seed, the fold and what their sweep set.

    Raises:
        ConfigError: they do not; names the settings that differ.
    """
    kinds = {digest(record.rest): record for record in records}
    if len(kinds) > 1:
        first, other = list(kinds.values())[:2]
        differing = differences(first.rest, f"in {first.folder}", other.rest, f"in {other.folder}")
        raise ConfigError(
            f"the runs are of {len(kinds)} sets of settings, which one table cannot mix; "
            f"choose by key=value or by --runs: {differing}"
        )
