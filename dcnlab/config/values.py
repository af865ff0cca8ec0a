"""Values of command-line options that say more than a word."""

from __future__ import annotations

import re

from dcnlab.config.validation import within
from dcnlab.io.errors import ConfigError

SMALLEST = 32
"""Pixels: the least height and width of an image that a network of stride 32 takes."""


def size(option: str, text: str | None) -> tuple[int, int] | None:
    """Height and width from HxW; None from None.

    Raises:
        ConfigError: it is not of that form, or too small.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None:
        raise ConfigError(f"{option} is {text!r}; it must be HxW, height and width in pixels such as 360x480")
    height, width = int(found[1]), int(found[2])
    if min(height, width) < SMALLEST:
        raise ConfigError(f"{option} is {text!r}; both must be at least {SMALLEST}")
    return height, width


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """Numbers with commas between them, each once, in growing order; none from an empty text.

    Raises:
        ConfigError: they are no numbers, or one does not lie between `low` and `high`, both included.
    """
    try:
        found = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}; it must be numbers with commas between them") from error
    for number in found:
        within(option, number, low, high)
    return found
