"""`dcnlab config`: each key of an experiment with its value, its meaning, its default, and where the value is from."""

from __future__ import annotations

import fnmatch
import textwrap
from typing import Annotated

import typer

from dcnlab.cli.output import Overrides
from dcnlab.config import key_texts, keys, sources
from dcnlab.config.overrides import COMMAND_LINE
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say, visible

COLUMNS = 80
"""Width of a line, characters."""
INDENT = " " * 4


def print_keys(
    experiment: Annotated[str | None, typer.Argument(metavar="[EXPERIMENT.yaml]", show_default="the defaults")] = None,
    overrides: Overrides = None,
    pattern: Annotated[
        str | None,
        typer.Option("--keys", metavar="PATTERN", help="Only these: a part of the key, or 'optim.*'; quote the star."),
    ] = None,
) -> None:
    """Print each key of an experiment: its value, what it means, its default, and what states it; needs no data.

    Without an experiment: the defaults.
    """
    words = list(overrides or [])
    if experiment is not None and "=" in experiment:
        raise ConfigError(
            f"{experiment} changes an experiment; state one before it: dcnlab config EXPERIMENT {experiment}"
        )
    settings = sources.settings_of(experiment, words)
    chosen = [setting for setting in settings if pattern is None or matches(setting.key, pattern)]
    if not chosen:
        raise ConfigError(f"--keys {pattern}: no key has it{keys.suggestion(str(pattern).strip('*.'))}")
    say("\n\n".join(map(entry, chosen)), block=True)


def matches(key: str, pattern: str) -> bool:
    """Whether a key is meant by a pattern: one with * or ? is compared with the whole key, another with any part."""
    pattern = pattern.lower()
    return fnmatch.fnmatchcase(key, pattern) if set(pattern) & set("*?[") else pattern in key


def entry(setting: sources.Setting) -> str:
    """The lines of a key, at most `COLUMNS` characters each."""
    default = keys.default_of(setting.key)
    kind = keys.describe_type(keys.type_of(setting.key))
    kind = f"{kind[:1].upper()}{kind[1:]}"
    origin = f"{kind}; the default."
    if setting.source is not None:
        where = f"the {COMMAND_LINE}" if setting.source == COMMAND_LINE else setting.source
        origin = f"{kind}; default {key_texts.as_yaml(default)}. From {where}."
    readers = key_texts.readers_text(setting.key)
    first = f"{setting.key}: {key_texts.as_yaml(setting.value)}"
    below = [key_texts.text_of(setting.key), origin, *([f"Read {readers}."] if readers else [])]
    lines = textwrap.wrap(visible(first), COLUMNS, subsequent_indent=INDENT, break_on_hyphens=False)
    for text in below:
        wrapped = textwrap.wrap(visible(text), COLUMNS - len(INDENT), break_on_hyphens=False)
        lines += [INDENT + line for line in wrapped]
    return "\n".join(lines)
