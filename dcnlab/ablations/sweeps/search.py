"""The points of a sweep: every one of a grid, or drawn at random, with the distributions that wandb knows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dcnlab.config.validation import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest

MOST_STEPS = 2**53
"""Values of a quantized range; beyond that many, neighbours are the same number."""

# Keys of each distribution: those it needs, and those it may have.
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (("min", "max"), ()),
    "uniform": (("min", "max"), ()),
    "q_uniform": (("min", "max"), ("q",)),
    "log_uniform": (("min", "max"), ()),
    "q_log_uniform": (("min", "max"), ("q",)),
    "inv_log_uniform": (("min", "max"), ()),
    "log_uniform_values": (("min", "max"), ()),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "inv_log_uniform_values": (("min", "max"), ()),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}


def distribution(name: str, spec: Any) -> dict[str, Any]:
    """Check one entry of a sweep's `parameters`, and complete it with the name of its distribution.

    Raises:
        ConfigError: wandb would not take it; names the parameter and what is wrong.
    """
    if not isinstance(spec, dict):
        raise ConfigError(f"parameters.{name} is {spec!r}; it must be a mapping such as {{values: [0, 1]}}")
    kind = spec.get("distribution") or _implied(spec)
    if kind is None:
        keys = sorted({key for needed, optional in DISTRIBUTIONS.values() for key in needed + optional})
        for key in spec:
            _known(f"parameters.{name}", key, [*keys, "distribution", "parameters"])
        raise ConfigError(f"parameters.{name}: needs value, values, min and max, distribution, or parameters")
    choose(f"parameters.{name}.distribution", kind, DISTRIBUTIONS)
    needed, optional = DISTRIBUTIONS[kind]
    for key in spec:
        _known(f"parameters.{name}", key, [*needed, *optional, "distribution"])
    missing = [key for key in needed if key not in spec]
    if missing:
        raise ConfigError(f"parameters.{name}: {kind} needs {' and '.join(missing)}")
    _check_values(name, kind, spec)
    return {**spec, "distribution": kind}


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
    """Points without end; the n-th is known from the space, the seed and n alone.

    Raises:
        ConfigError: a parameter's distribution reaches beyond all numbers.
    """
    for number in itertools.count():
        rng = np.random.default_rng([seed, number])
        yield {name: _drawn(name, spec, rng) for name, spec in parameters.items()}


def _implied(spec: dict[str, Any]) -> str | None:
    """The distribution that wandb takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
        return "int_uniform" if whole else "uniform"
    return None


def _known(where: str, key: str, keys: list[str]) -> None:
    if key not in keys:
        near = nearest(key, keys)
        raise ConfigError(
            f"no such key {where}.{key}; " + (f"nearest: {near}" if near else f"it takes: {', '.join(keys)}")
        )


def _check_values(name: str, kind: str, spec: dict[str, Any]) -> None:
    values = spec.get("values")
    if "values" in spec and (not isinstance(values, list) or not values):
        raise ConfigError(f"parameters.{name}.values is {values!r}; it must be a list with something in it")
    for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
        value = spec.get(key, 0)
        # Compared, not math.isfinite: a whole number may be larger than any float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise ConfigError(f"parameters.{name}.{key} is {value!r}; it must be a number")
    if "min" in spec and spec["min"] >= spec["max"]:
        raise ConfigError(f"parameters.{name}.min is {spec['min']}; it must be less than max {spec['max']}")
    if kind.endswith("log_uniform_values") and spec["min"] <= 0:
        raise ConfigError(f"parameters.{name}.min is {spec['min']}; {kind} needs it above 0")
    if spec.get("q", 1) <= 0:
        raise ConfigError(f"parameters.{name}.q is {spec['q']}; it must be above 0")
    if spec.get("sigma", 1) < 0:
        raise ConfigError(f"parameters.{name}.sigma is {spec['sigma']}; it must be at least 0")
    for key in ("a", "b"):
        if spec.get(key, 1) <= 0:
            raise ConfigError(f"parameters.{name}.{key} is {spec[key]}; it must be above 0")
    if kind == "int_uniform" and not (isinstance(spec["min"], int) and isinstance(spec["max"], int)):
        raise ConfigError(f"parameters.{name}: int_uniform needs whole numbers for min and max")
    if kind == "categorical_w_probabilities":
        shares = spec["probabilities"]
        fits = isinstance(shares, list) and len(shares) == len(spec["values"])
        if (
            not fits
            or not all(isinstance(p, int | float) and p >= 0 for p in shares)
            or not math.isclose(sum(shares), 1)
        ):
            raise ConfigError(f"parameters.{name}.probabilities is {shares!r}; it must be one number a value, sum 1")


def _choices(name: str, spec: dict[str, Any]) -> tuple[int, Callable[[int], Any]]:
    """How many values a parameter takes in a grid, and the n-th of them."""
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
        # As numpy's arange, to the last bit: one number with a fraction makes all of them such, and the step is that
        # between the first two.
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
        raise ConfigError(f"parameters.{name}: its {spec['distribution']} reaches beyond all numbers")
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
