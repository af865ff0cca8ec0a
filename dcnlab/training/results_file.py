"""results.json: how a run ended, its metrics and its cost; written whole, and checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcnlab.io import json_file
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, shown, visible
from dcnlab.metrics.names import is_headline
from dcnlab.training.outcome import ENDS, STATUSES

SCHEMA = 1
MAX_BYTES = 2**24
"""Of a results.json; ours have some thousand."""
MAX_ENTRIES = {"parameters": 1000, "metrics": 100_000, "model": 100, "cost": 100, "environment": 1000}
"""Of each section."""
MAX_HEADLINES = 100
"""Metrics of the whole test; each is a column of people's tables."""
MAX_NAME_LENGTH = 1000
"""Characters of an entry's name."""

_SECTIONS = ("parameters", "metrics", "model", "cost", "environment")
_NUMBERS = {"model": ("params", "macs"), "cost": ("train_seconds", "images_per_second", "peak_memory_bytes")}
"""Numbers outside the metrics; null where one was not measured."""
_CLASS_LISTS = ("classes", "left_out")
"""Lists of `metrics_over`: classes that the means include, and those without a label (of pixels: nor predicted)."""
_NAMED = 5
"""Classes that are named; of more there is the number alone."""
_TEXTS = ("git", "dcnlab", "torch", "gpu", "cpu", "cuda")
"""Entries of the environment that are text; the first ones identify the code."""


def write(path: Path, results: dict[str, Any]) -> None:
    """Write `results` as JSON, whole or not at all."""
    if "reason" in results:  # it may quote the name of a file, which is any bytes
        results = {**results, "reason": visible(results["reason"])}
    write_whole(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any] | None:
    """The content of a results.json; None where there is no such file.

    Raises:
        ConfigError: it does not have the form that a run writes.
    """
    try:
        results = json_file.load(path, MAX_BYTES)
        json_file.check_depth(results)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}); remove it to let the run resume") from error
    check(results, str(path))
    assert isinstance(results, dict)
    return results


def check(results: Any, source: str) -> None:
    """Check that `results` has the form that a run writes.

    Raises:
        ConfigError: it is not; names the entry and `source`.
    """
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ConfigError(f"{source}: not of schema {SCHEMA}")
    if results.get("status") not in STATUSES or not all(isinstance(results.get(key), dict) for key in _SECTIONS):
        raise ConfigError(f"{source}: status or one of {', '.join(_SECTIONS)} is missing")
    _check_names(results, source)
    if type(results.get("seed")) is not int:
        raise ConfigError(f"{source}: seed is {shown(results.get('seed'))}; it must be a whole number")
    if not isinstance(results.get("end"), str | None):
        raise ConfigError(f"{source}: end is {shown(results['end'])}; it must be text, such as {ENDS[0]}")
    classes = results.get("metrics_over")
    if classes is not None and not (
        isinstance(classes, dict) and all(_are_names(classes.get(key)) for key in _CLASS_LISTS)
    ):
        raise ConfigError(
            f"{source}: metrics_over is {shown(classes)}; it must hold lists of names, {' and '.join(_CLASS_LISTS)}"
        )
    _check_expected(results.get("expected"), source)
    for section, keys in (("metrics", results["metrics"]), *_NUMBERS.items()):
        for key in keys:
            value = results[section].get(key)
            if not _is_finite(value) and (value is not None or section == "metrics"):
                raise ConfigError(f"{source}: {section}.{shown(key)} is {shown(value)}; it must be a finite number")
    weights = results["model"].get("weights")
    if weights is not None and not is_source(weights):
        raise ConfigError(
            f"{source}: model.weights is {shown(weights)}; it must hold the texts name, address and sha256"
        )
    for key in _TEXTS:
        if not isinstance(results["environment"].get(key), str | None):
            raise ConfigError(f"{source}: environment.{key} is {shown(results['environment'][key])}; it must be text")
    if type(results["environment"].get("world_size")) not in (int, type(None)):
        value = shown(results["environment"]["world_size"])
        raise ConfigError(f"{source}: environment.world_size is {value}; it must be a whole number")


def _check_expected(outcome: Any, source: str) -> None:
    """Check the outcome of `test.expected`; None where the experiment expects nothing."""
    if outcome is None:
        return
    entries = outcome.values() if isinstance(outcome, dict) else [None]
    if not all(isinstance(entry, dict) and type(entry.get("met")) is bool for entry in entries):
        raise ConfigError(f"{source}: expected is {shown(outcome)}; it must state met, true or false, for each metric")


def is_source(weights: Any) -> bool:
    """Whether this says where weights come from: texts `name`, `address` and `sha256`, the last two perhaps None."""
    if not isinstance(weights, dict) or not isinstance(weights.get("name"), str):
        return False
    return all(isinstance(weights.get(key), str | None) for key in ("address", "sha256")) and _is_text(weights)


def _check_names(results: dict[str, Any], source: str) -> None:
    """Refuse names and texts that no table can hold: lone surrogates, and too many or too long ones."""
    wrong = next((key for key, value in results.items() if not _is_text([key, value])), None)
    if wrong is not None:
        raise ConfigError(f"{source}: {shown(wrong)} holds a lone surrogate, which is not a character")
    for section, limit in MAX_ENTRIES.items():
        names = list(results[section])
        if len(names) > limit:
            raise ConfigError(f"{source}: {section} has {len(names)} entries; allowed are {limit}")
        longest = max(names, key=len, default="")
        if len(longest) > MAX_NAME_LENGTH:
            raise ConfigError(f"{source}: {section} has a name of {len(longest)} characters; allowed {MAX_NAME_LENGTH}")
    headlines = sum(map(is_headline, results["metrics"]))
    if headlines > MAX_HEADLINES:
        raise ConfigError(f"{source}: metrics has {headlines} of the whole test; allowed are {MAX_HEADLINES}")


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def diverged(results: dict[str, Any] | None) -> bool:
    """Whether a run ended because it diverged, so that resuming it would end the same way.

    Args:
        results: of its results.json; None where it has none.
    """
    if results is None or results["status"] != "failed":
        return False
    if results.get("end") is not None:
        return bool(results["end"] == "diverged")
    reason = results.get("reason")  # of runs from before `end` was written
    return isinstance(reason, str) and reason.startswith(("Diverged: ", "ConfigError: the training diverged: "))


def means_over(results: dict[str, Any]) -> str | None:
    """One line on the classes that the means of a run leave out; None where they include all.

    Args:
        results: accepted by `check`; `metrics_over` alone is enough.
    """
    classes = results.get("metrics_over")
    if not classes or not classes["left_out"]:
        return None
    if not classes["classes"]:
        return "no metrics: data.test has nothing to find, no label of any class"
    known, missing = len(classes["classes"]), classes["left_out"]
    names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    return f"means are over {known} of {known + len(missing)} classes, without those that data.test lacks: {names}"
