"""Parsers of option values: HxW, LOW,HIGH, numbers with commas between them."""

from __future__ import annotations

import re

from dcnlab.config.value_checks import within
from dcnlab.io.errors import ConfigError

MIN_SIDE = 32
"""Pixels: the smallest height and width of an image that a network of stride 32 takes."""


def size(option: str, text: str | None) -> tuple[int, int] | None:
    """Height and width from HxW; None from None.

    Raises:
        ConfigError: it is not of that form, or too small.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise ConfigError(f"{option} is {text!r}; it must be HxW, height and width in pixels such as 360x480")
    height, width = int(match[1]), int(match[2])
    if min(height, width) < MIN_SIDE:
        raise ConfigError(f"{option} is {text!r}; both must be at least {MIN_SIDE}")
    return height, width


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """Numbers with commas between them, each once, in ascending order; an empty list from an empty text.

    Raises:
        ConfigError: they are not numbers, or one does not lie between `low` and `high`, both included.
    """
    try:
        parsed = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}; it must be numbers with commas between them") from error
    for number in parsed:
        within(option, number, low, high)
    return parsed


def sides(option: str, text: str) -> tuple[float, float]:
    """Two sides of squares, pixels, from LOW,HIGH.

    Raises:
        ConfigError: it is not of that form.
    """
    parsed = numbers(option, text, 1, 100_000)
    if len(parsed) != 2:
        raise ConfigError(f"{option} is {text!r}; it must be LOW,HIGH, two numbers of pixels such as 96,224")
    return parsed[0], parsed[1]
