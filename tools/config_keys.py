"""Writes docs/config.md, the page of every config key, from the dataclasses: `python tools/config_keys.py [--check]`.

A field's type and default are those of the class; the text below the field says what it means.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from dcnlab.config import key_texts, keys, schema
from dcnlab.io.atomic import write_whole

PAGE = Path(__file__).resolve().parents[1] / "docs" / "config.md"
HEAD = """\
# Config keys

<!-- Written by tools/config_keys.py from dcnlab/config/schema.py: edit the text there, then run `make docs`. -->

Every key that an experiment file, a sweep or the command line can set. A file states only what differs from these
defaults; an unknown key is an error that names the nearest one.

    dcnlab fit segmentation/quickstart model.deform_layers=3 optim.lr=0.02

The order of precedence, from weak to strong: these defaults, the chain of `extends:`, the experiment file, the
parameters of a sweep, `key=value` on the command line. A key that nothing reads is an error too: `data.root` beside
`data.name=digits`, or `optim.lr` in `dcnlab evaluate`. Many keys below say what reads them. A value
`${data.root}` stands for another key.
"""


def page() -> str:
    """The page as Markdown."""
    sections = [(schema.Config, "", "The experiment")]
    sections += [(kind, f"{key}.", f"`{key}`") for key, kind in _sections(schema.Config)]
    return "\n".join([HEAD, *(_section(*section) for section in sections)])


def _sections(kind: type, prefix: str = "") -> list[tuple[str, type]]:
    """The dataclasses below one, each by its dotted key."""
    sections = []
    for field in dataclasses.fields(kind):
        hint = keys.type_of(f"{prefix}{field.name}")
        if dataclasses.is_dataclass(hint):
            sections += [(f"{prefix}{field.name}", hint), *_sections(hint, f"{prefix}{field.name}.")]
    return sections


def _section(kind: Any, prefix: str, title: str) -> str:
    texts = key_texts.field_texts(kind)
    lines = [f"## {title}", "", " ".join(inspect.getdoc(kind).split()), ""]
    for field in dataclasses.fields(kind):
        key = f"{prefix}{field.name}"
        hint = keys.type_of(key)
        if dataclasses.is_dataclass(hint):
            continue
        kind_of_value = f"{keys.describe_type(hint).capitalize()}; default `{key_texts.as_yaml(keys.default_of(key))}`"
        lines += [f"`{key}`", f":   {_markdown(texts[field.name])}<br>", f"    *{kind_of_value}*{_readers(key)}", ""]
    return "\n".join(lines)


def _readers(key: str) -> str:
    """The conditions under which a key is read, as the end of its line; empty for a key that always is."""
    text = key_texts.readers_text(key, quote="`")
    return f"<br>\n    Read {text}." if text else ""


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<").replace("*", r"\*").replace("_", r"\_")


def main() -> int:
    """Write the page; with --check, the exit status is 1 where the page is not what would be written."""
    text = page()
    if "--check" not in sys.argv[1:]:
        write_whole(PAGE, text)
        return 0
    if PAGE.read_text() == text:
        return 0
    print(f"{PAGE.name} is not what the dataclasses say: python tools/config_keys.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
