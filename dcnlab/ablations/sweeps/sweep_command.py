"""The command of a sweep file: its experiment, its key=value, and the words before `dcnlab fit`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from dcnlab.config.overrides import parse_override
from dcnlab.io.errors import ConfigError

PARAMETERS = ("${args_json_file}", "${args_no_hyphens}", "${args}")
"""Macros of wandb for the sweep's parameters, of which a command needs one."""
MACROS = ("env", "interpreter", "program", "args_json_file", "args_no_hyphens", "args")
"""Macros of wandb that `dcnlab fit` can use."""
USUAL = '["${env}", dcnlab, fit, "${program}", "${args_json_file}"]'
"""As YAML that can be pasted: a brace in a list needs quotes."""


_INTERPRETER = re.compile(r"\$\{(env|interpreter)\}|(.*/)?env|(.*/)?python[0-9.]*|-m|(.*/)?dcnlab")
"""Words before `fit` that say which program runs; here it is this one."""


_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def check_runnable(before: Sequence[str]) -> None:
    """Check that the words before `dcnlab fit` only set environment variables and start Python.

    Args:
        before: the words.

    Raises:
        ConfigError: another program is to start the trial, or Python is given an option.
    """
    foreign = [word for word in before if not _INTERPRETER.fullmatch(word) and not VARIABLE.fullmatch(word)]
    if foreign:
        raise ConfigError(
            f"command: dcnlab sweep cannot run {shlex.join(foreign)} before dcnlab fit, as wandb's agent does; "
            "state the processes and machines of a trial as trainer.devices and trainer.num_nodes instead"
        )


def _with_variables(word: str) -> str:
    """The word with `${envvar:NAME}` replaced as wandb's agent does: by the value, or by the name where it has none."""
    return _ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[1]), word)


def parse(tree: dict[str, Any]) -> tuple[str, tuple[str, ...], list[str]]:
    """The experiment, the key=value, and the words before `fit` of a sweep's command.

    Raises:
        ConfigError: the command does not call `dcnlab fit` with the sweep's parameters.
    """
    program = tree.get("program")
    command = tree.get("command")
    if command is None:
        raise ConfigError(
            f"command is missing, and wandb's agent would run `/usr/bin/env python {program} --NAME=VALUE`; "
            f"write command: {USUAL}"
        )
    if not isinstance(command, list) or not command:
        raise ConfigError(f"command is {command!r}; it must be a list: command: {USUAL}")
    words = [_with_variables(str(word)) for word in command]
    for word in words:
        macro = re.fullmatch(r"\$\{(.*)\}", word)
        if macro and macro[1] not in MACROS:
            raise ConfigError(f"command: {word} is not an argument of dcnlab fit; write command: {USUAL}")
    calls = [at for at in range(1, len(words)) if words[at] == "fit" and words[at - 1].endswith("dcnlab")]
    if not calls or not set(PARAMETERS) & set(words):
        raise ConfigError(f"command must call dcnlab fit with the sweep's parameters: command: {USUAL}")
    experiment, *rest = words[calls[0] + 1 :]
    if experiment == "${program}":
        if not isinstance(program, str):
            raise ConfigError("program is missing; it names the experiment file")
        experiment = program
    overrides = [word for word in rest if not word.startswith("${")]
    for word in overrides:
        parse_override(word)
    return experiment, tuple(overrides), words[: calls[0] - 1]
