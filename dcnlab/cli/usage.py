"""Errors of a wrong command line and of a full disk: one line, with the nearest right word or the next command."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

from dcnlab.config import other_words
from dcnlab.config.keys import all_keys, suggestion, type_of
from dcnlab.io.text import nearest


def line(error: BaseException) -> str:
    """The error of a wrong command line, with the nearest right word."""
    text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    if not text:  # a group without a command has printed its help
        sys.exit(0)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dcnlab"
    words = text.split("'")
    if context is not None and text.startswith("No such command") and len(words) > 1:
        known = context.command.list_commands(context)
        near = other_words.COMMANDS.get(words[1]) if path == "dcnlab" else None
        near = near or nearest(words[1], known)
        text = f"No such command {words[1]!r}" + (f"; nearest: {near}" if near else "")
    option = getattr(error, "option_name", None)
    if context is not None and option is not None:
        text = text.partition(" (Possible options")[0] + _hint(option, context.command.params)
    if "EXPERIMENT" in text and text.startswith("Missing argument"):
        text = f"{text.rstrip('.')}; `dcnlab list experiments` names them"
    return f"{text.rstrip('.')}; see `{path} --help`"


def _hint(option: str, parameters: list[Any]) -> str:
    """The end of an error about an unknown option: the nearest one, or the setting that may be meant."""
    takes_settings = any("KEY=VALUE" in (parameter.metavar or "") for parameter in parameters)
    word = option.lstrip("-").replace("-", "_")
    if takes_settings and word in {*other_words.KEYS, *(key.rpartition(".")[2] for key in all_keys())}:
        return _as_setting(option)
    options = [name for parameter in parameters for name in parameter.opts if name.startswith("--")]
    near = nearest(option, options) or next((name for name in options if name.startswith(option)), None)
    if near is not None:
        return f"; nearest: {near}"
    return _as_setting(option) if takes_settings else ""


def _as_setting(option: str) -> str:
    """The end of an error about an unknown option that may be meant as a setting: its key=value."""
    word = option.lstrip("-").replace("-", "_")
    key = word if type_of(word) is not None else suggestion(word).partition("nearest: ")[2]
    if not key or dataclasses.is_dataclass(type_of(key)):
        return ""
    return f"; a setting has no dashes: {key}={_given(option) or 'VALUE'}"


def _given(option: str) -> str | None:
    """The value that the command line gives an option; None: it gives none."""
    for word, after in itertools.pairwise([*sys.argv, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else None if after.startswith("-") or not after else after
    return None


def after_room(error: OSError) -> str:
    """The end of a full disk's error: the command that continues the run once there is space."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    from dcnlab.training import run_folder, run_search

    run = run_search.containing(Path(str(error.filename))) if error.filename is not None else None
    saved = run is not None and run_folder.RunFolder(run).checkpoints()
    again = f"dcnlab resume {shlex.quote(str(run))}" if saved else "the same command"
    return f"; once there is room, {again} continues"
