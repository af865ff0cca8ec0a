"""The Jinja2 environment of the report: it escapes every text, and shows invisible characters as escapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dcnlab.io.text import visible

FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    """Templates of this folder. All text but `Markup` is escaped; None is shown as nothing."""
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    templates.filters["breakable"] = breakable
    return templates


def breakable(text: str) -> Markup:
    """Text that may break behind its underscores, as long names must on a phone."""
    return Markup("_<wbr>").join(escape(_shown(word)) for word in text.split("_"))


def raw(name: str) -> Markup:
    """A file of this folder as it is, such as report.css."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _shown(value: Any) -> Any:
    """A value as HTML may hold it: characters that HTML forbids or that reverse text become escapes."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else visible(value, keep="\n\t")
