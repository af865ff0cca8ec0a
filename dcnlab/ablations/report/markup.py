"""HTML out of Python, escaped by construction: text that is not markup cannot become it."""

from __future__ import annotations

import html

from dcnlab.io.text import visible


class Markup(str):
    """Text that is HTML already; every other text is escaped where it enters an element."""


Child = str | int | float | None
"""What stands in an element; None is nothing."""

_VOID = ("meta", "link", "img", "br", "wbr", "line", "circle", "path", "rect", "polyline")


def el(tag: str, attributes: dict[str, object] | None = None, *children: Child) -> Markup:
    """An element.

    Args:
        tag: its name.
        attributes: values are escaped; None and False leave the attribute out, True states it without a value.
        children: escaped, unless they are `Markup`.
    """
    shown = []
    for name, value in (attributes or {}).items():
        if value is True:
            shown.append(f" {name}")
        elif value is not None and value is not False:
            shown.append(f' {name}="{escape(str(value))}"')
    opening = f"<{tag}{''.join(shown)}>"
    if tag in _VOID:
        # SVG's void elements need the end that HTML's do not have.
        return Markup(opening if tag in ("meta", "link", "img", "br", "wbr") else f"{opening[:-1]}/>")
    return Markup(f"{opening}{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(str(part) if isinstance(part, Markup) else escape(part) for part in children))


def escape(child: Child) -> str:
    """Text as HTML shows it; characters that HTML may not hold, or that turn the text about, are written out."""
    return "" if child is None else html.escape(visible(child, keep="\n\t"))


def breakable(text: str) -> Markup:
    """Text that may break behind its underscores, as long names must on a phone."""
    return Markup(f"_{el('wbr')}".join(escape(word) for word in text.split("_")))
