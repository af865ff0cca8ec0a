"""Checks of a single value: one of its choices, within its range, or the name of a folder."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from dcnlab.config import outside
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest


def choose(name: str, value: str, choices: Iterable[str], others: Mapping[str, str] | None = None) -> None:
    """Check that `value` is one of `choices`.

    Args:
        name: of the setting, for the message.
        value: to check.
        choices: that are allowed.
        others: words of other suites, and the choice that each stands for.

    Raises:
        ConfigError: it is not; names the nearest choice and lists them all.
    """
    choices = list(choices)
    if value not in choices:
        near = (others or {}).get(str(value).lower()) or nearest(value, choices)
        hint = f"nearest: {near}; " if near else ""
        raise ConfigError(f"{name} is {value!r}; {hint}choose from: {', '.join(choices)}")


def within(name: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Check that `value` is None or lies between `low` and `high`, both included.

    Raises:
        ConfigError: it does not.
    """
    if value is not None and not (low <= value <= high and value < math.inf):
        finite = isinstance(value, int) or math.isfinite(value)
        wanted = f"at least {_written(low)}" if high == math.inf else f"between {_written(low)} and {_written(high)}"
        raise ConfigError(f"{name} is {_written(value)}; it must be {'' if finite else 'a finite number, '}{wanted}")


def _written(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)  # an int may be larger than any float


def choose_or_outside(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`, or names a class from outside.

    Raises:
        ConfigError: it is neither; names the nearest choice and lists them all.
    """
    if not outside.is_outside(value):
        choose(name, value, choices)
    elif isinstance(value, str):
        outside.check_form(name, value)


def check_folder_name(name: str, value: str | None) -> None:
    """Check that `value` is None or can be the name of a folder inside the runs.

    Raises:
        ConfigError: it cannot.
    """
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", value):
        raise ConfigError(f"{name} is {value!r}; it names a folder: letters, digits and _ . - + = only")
