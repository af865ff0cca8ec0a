"""Short names of rows: what differs, in the words of papers, such as `3 deformable`, `dilation 4`, `active`, `STN`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dcnlab.ablations.tables.collect import CODE

PLAIN = "plain"
"""Name of a row whose network has nothing of what others have."""

_COMMIT = 9
"""Characters of a commit that people are shown."""
_MODULES = ("model.deform_layers", "model.deform_kind", "model.modulated")
WITH_WORDS = (*_MODULES, "model.spatial_transformer", "model.deform_pooling", "model.dilation")
"""Settings that a row's name says in a word or two; several of them make one column of a table."""


def value_text(value: Any, missing: str = "") -> str:
    """A setting's value as YAML writes it; `missing` for None."""
    if value is None:
        return missing
    return str(value).lower() if isinstance(value, bool) else str(value)


def label(name: str, value: Any) -> str:
    """A swept setting's value as people read it."""
    if name == CODE and value is not None:
        commit, dash, dirty = value.partition("-")
        return commit[:_COMMIT] + dash + dirty
    return value_text(value)


def row_names(swept: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each row by the settings in which it differs from the others.

    Args:
        swept: the settings in which the rows differ, dotted.
        rows: a value for each of them; missing ones are not set.

    Returns:
        A name for each row; where two short ones would be the same, all settings are named in full.
    """
    usual = {key: _usual([value_text(row.get(key)) for row in rows]) for key in swept}
    names = [_name(swept, row, usual) for row in rows]
    values: dict[str, set[tuple[str, ...]]] = {}
    for name, row in zip(names, rows, strict=True):
        values.setdefault(name, set()).add(tuple(value_text(row.get(key)) for key in swept))
    return [name if len(values[name]) == 1 else _in_full(swept, row) for name, row in zip(names, rows, strict=True)]


def _usual(values: Sequence[str]) -> str | None:
    """The value that most rows have; None: no value is there twice."""
    value, count = Counter(values).most_common(1)[0]
    return value if count > 1 else None


def _name(swept: Sequence[str], row: Mapping[str, Any], usual: Mapping[str, str | None]) -> str:
    words = [_modules(swept, row)] if set(swept) & set(_MODULES) else []
    for key in swept:
        value, last = row.get(key), key.rpartition(".")[2]
        if key in _MODULES:
            continue
        if key == "model.spatial_transformer":
            words.append("STN" if value else "")
        elif key == "model.deform_pooling":
            words.append("deformable pooling" if value else "")
        elif key == "model.dilation":
            words.append("" if value is None or value_text(value) == usual[key] else f"dilation {value}")
        else:
            words.append(f"{last} {label(key, value) or 'not set'}")
    return ", ".join(filter(None, words)) or PLAIN


def _modules(swept: Sequence[str], row: Mapping[str, Any]) -> str:
    """The deformable layers of a row; empty: it has none."""
    layers, kind = row.get("model.deform_layers"), row.get("model.deform_kind") or "deformable"
    if "model.deform_layers" in swept and not layers:
        return ""
    if kind != "deformable":
        first = str(kind)
    elif layers:
        first = f"{layers} deformable"
    else:
        first = kind if "model.deform_kind" in swept else ""
    return " ".join(filter(None, (first, "modulated" if row.get("model.modulated") else "")))


def _in_full(swept: Sequence[str], row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {label(key, row.get(key)) or 'not set'}" for key in swept)
