"""The sweep parameters that a wandb agent writes as key=value, separated from the user's overrides."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.config.identity import is_computed
from dcnlab.config.overrides import parse_override
from dcnlab.io import yaml_file

RECORDED = "dcnlab_config"
"""Key of the text of config.yaml in a run's config on wandb."""


def split_agent_parameters(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Separate the sweep parameters that a wandb agent wrote as key=value from the user's own overrides.

    The agent writes Python's `str` of each value, and the values themselves to the file WANDB_SWEEP_PARAM_PATH.

    Returns:
        The parameters, empty without an agent; the remaining words.
    """
    if not os.environ.get("WANDB_SWEEP_ID"):
        return {}, list(words)
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH", "")
    written = _agent_file(Path(path)) if os.path.isfile(path) else None
    parameters: dict[str, Any] = {}
    others = []
    for word in words:
        key, _, text = word.partition("=")
        if written is not None and key in written and text == str(written[key]):
            parameters[key] = written[key]
        elif written is None and is_computed(key):
            parameters[key] = _from_python(key, text)
        else:
            others.append(f"{key}=null" if written is None and text == "None" else word)
    return parameters, others


def sweeps_own(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a sweep set, of those that a wandb agent gives a trial.

    Where the agent resumes a run, wandb's server gives the whole config that the run had recorded there.
    """
    recorded = parameters.get("sweep")
    return recorded if RECORDED in parameters and isinstance(recorded, dict) else parameters


def _agent_file(path: Path) -> dict[str, Any]:
    tree = yaml_file.read_yaml(path)
    return {key: spec["value"] for key, spec in tree.items() if isinstance(spec, dict) and "value" in spec}


def _from_python(key: str, text: str) -> Any:
    """The value whose `str` in Python is `text`."""
    if text == "None":
        return None
    if text[:1] in ("[", "{"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass  # written by hand, as YAML
    return parse_override(f"{key}={text}")[1]
