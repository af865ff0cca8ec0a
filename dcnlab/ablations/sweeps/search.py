"""The points of a sweep: a whole grid, or random draws from wandb's distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dcnlab.io.errors import ConfigError

MOST_STEPS = 2**53
"""Values of a quantized range; beyond that many, neighbours are the same number."""


def grid(parameters: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last parameter changing fastest; made one by one, however many there are.

    Raises:
        ConfigError: a parameter has no finite list of values.
    """
    choices = {name: _choices(name, spec) for name, spec in parameters.items()}
    number, points = 0, grid_size(parameters)
    while number < points:  # not a range, whose length is limited
        rest, point = number, dict[str, Any]()
        for name, (count, value) in reversed(choices.items()):
            rest, at = divmod(rest, count)
            point[name] = value(at)
        yield dict(reversed(point.items()))
        number += 1


def grid_size(parameters: dict[str, dict[str, Any]]) -> int:
    """How many points a grid has.

    Raises:
        ConfigError: a parameter has no finite list of values.
    """
    return math.prod(_choices(name, spec)[0] for name, spec in parameters.items())


def random(parameters: dict[str, dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Random points without end; the n-th depends only on the parameters, the seed and n.

    Raises:
        ConfigError: a parameter's distribution overflows.
    """
    for number in itertools.count():
        rng = np.random.default_rng([seed, number])
        yield {name: _drawn(name, spec, rng) for name, spec in parameters.items()}


def _choices(name: str, spec: dict[str, Any]) -> tuple[int, Callable[[int], Any]]:
    """The number of values of a parameter in a grid, and a function that gives the n-th."""
    kind = spec["distribution"]
    if kind == "constant":
        return 1, lambda number: spec["value"]
    if kind == "categorical":
        return len(spec["values"]), lambda number: spec["values"][number]
    if kind == "int_uniform":
        return spec["max"] - spec["min"] + 1, lambda number: spec["min"] + number
    if kind == "q_uniform":  # as wandb's own grid: the upper end left out
        start, end, step = spec["min"], spec["max"], spec.get("q", 1)
        steps = (end - start) / step
        if not steps < MOST_STEPS:
            raise ConfigError(f"parameters.{name} has {steps:.3g} values; allowed are {MOST_STEPS}")
        # As numpy's arange, to the last bit: one float makes all values floats, and the step is the difference of the
        # first two values.
        start = float(start) if isinstance(start + end + step, float) else start
        step = (start + step) - start
        return math.ceil(steps), lambda number: start + number * step
    raise ConfigError(f"parameters.{name}: a grid takes value, values or whole numbers from min to max, and no {kind}")


def _drawn(name: str, spec: dict[str, Any], rng: np.random.Generator) -> Any:
    try:
        value = _draw(spec, rng)
    except (OverflowError, ValueError) as error:
        raise ConfigError(f"parameters.{name}: its {spec['distribution']} cannot be drawn from ({error})") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"parameters.{name}: its {spec['distribution']} gives a number that is not finite")
    return value


def _draw(spec: dict[str, Any], rng: np.random.Generator) -> Any:
    kind = spec["distribution"]
    if kind == "constant":
        return spec["value"]
    if kind.startswith("categorical"):
        return spec["values"][rng.choice(len(spec["values"]), p=spec.get("probabilities"))]
    if kind == "int_uniform":
        return int(rng.integers(spec["min"], spec["max"], endpoint=True))
    value = _continuous(kind.removeprefix("q_"), spec, rng)
    if kind.startswith("q_"):
        step = spec.get("q", 1)
        value = round(value / step) * step
    return _plain(value)


def _continuous(kind: str, spec: dict[str, Any], rng: np.random.Generator) -> float:
    if kind.endswith("normal"):
        value = rng.normal(spec.get("mu", 0), spec.get("sigma", 1))
        return math.exp(value) if kind == "log_normal" else value
    if kind == "beta":
        return rng.beta(spec.get("a", 1), spec.get("b", 1))
    low, high = spec["min"], spec["max"]
    if kind == "uniform":
        return rng.uniform(low, high)
    if kind.endswith("_values"):  # bounds are those of the value itself
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    # Bounds are exponents; `inv` is 1/x with x log-uniform between them.
    exponent = rng.uniform(low, high)
    return math.exp(-exponent if kind.startswith("inv") else exponent)


def _plain(value: Any) -> int | float:
    """A Python number, so that JSON takes it."""
    return value.item() if isinstance(value, np.generic) else value
