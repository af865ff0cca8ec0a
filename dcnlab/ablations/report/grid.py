"""Tables as HTML: a caption, headings that sort, and a frame of their own to scroll in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dcnlab.ablations.report.markup import Child, Markup, breakable, el

_FIGURE = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?)(?: ± [\d.,]+)?(?: \([^)]*\))?(?: of \d+ \(!\))?")
_WIDE = 9
"""Columns that fit a printed page without breaking words."""
_ABSENT = ("", "missing", "–")


def grid(caption: str, header: Sequence[str], lines: Sequence[Sequence[Child]]) -> Markup:
    """A table.

    Args:
        caption: what it shows.
        header: a name for each column.
        lines: the rows; columns of figures are set to the right and sort by them, whatever stands behind.
    """
    columns = list(zip(*lines, strict=True)) if lines else [() for _ in header]
    numeric = [_is_numeric(column) for column in columns]
    heads = [
        el("th", {"scope": "col", "class": "number" if number else None}, breakable(name))
        for name, number in zip(header, numeric, strict=True)
    ]
    body = [
        el("tr", None, *(_cell(at, cell, number) for at, (cell, number) in enumerate(zip(line, numeric, strict=True))))
        for line in lines
    ]
    classes = [*(["sortable"] if len(lines) > 1 else []), *(["wide"] if len(header) > _WIDE else [])]
    table = el(
        "table",
        {"class": " ".join(classes) or None},
        el("caption", None, el("span", None, caption)),
        el("thead", None, el("tr", None, *heads)),
        el("tbody", None, *body),
    )
    return el("div", {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": f"Table: {caption}"}, table)


def _cell(at: int, cell: Child, numeric: bool) -> Markup:
    text = str(cell)
    attributes: dict[str, object] = {"class": "number" if numeric else None}
    if text in _ABSENT and not isinstance(cell, Markup):
        attributes["data-absent"] = True
    elif numeric:
        found = _FIGURE.fullmatch(text)
        attributes["data-value"] = found[1].replace(",", "") if found else None
    if at == 0:
        return el("th", {"scope": "row", **attributes}, cell)
    return el("td", attributes, cell)


def _is_numeric(column: Sequence[Child]) -> bool:
    texts = [str(cell) for cell in column if isinstance(cell, Markup) or str(cell) not in _ABSENT]
    return bool(texts) and all(_FIGURE.fullmatch(text) for text in texts)
