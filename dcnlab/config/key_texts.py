"""Texts of the config keys: what each means, its type, its default, and what reads it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from functools import cache
from typing import Any

import yaml

from dcnlab.config import keys, unread
from dcnlab.config.schema import Config


@cache
def field_texts(kind: type) -> dict[str, str]:
    """The text below each field of a section's dataclass, by the field's name."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(text.value.value.split())  # type: ignore[union-attr,attr-defined]
    return texts


def text_of(key: str) -> str:
    """What a dotted key means."""
    section, _, name = key.rpartition(".")
    return field_texts(typing.cast(type, keys.type_of(section) if section else Config))[name]


def settable() -> list[str]:
    """The dotted keys that a user can set, in the order of the schema."""
    return [key for key in keys.all_keys() if not dataclasses.is_dataclass(keys.type_of(key)) and key != "sweep"]


def as_yaml(value: Any) -> str:
    """A value as a file or the command line states it, on one line."""
    value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, str) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def readers_text(key: str, quote: str = "") -> str:
    """The conditions under which a key is read, such as "where task is detection"; empty for a key that always is.

    Args:
        key: dotted.
        quote: put around names and values, such as a backtick.
    """

    def quoted(value: Any) -> str:
        return f"{quote}{value}{quote}"

    def either(values: tuple[Any, ...]) -> str:
        *others, last = map(quoted, values)
        return f"{', '.join(others)} or {last}" if others else last

    conditions = [f"{quoted(other)} is {either(values)}" for other, values in unread.readers(key).items()]
    parts = [f"where {' and '.join(conditions)}"] if conditions else []
    if unread.is_of_training(key):
        parts.append("in training only")
    return ", ".join(parts)
