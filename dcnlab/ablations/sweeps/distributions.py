"""The distributions of a sweep's parameters, checked as wandb checks them."""

from __future__ import annotations

import math
from typing import Any

from dcnlab.config.value_checks import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest

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
            _check_key(f"parameters.{name}", key, [*keys, "distribution", "parameters"])
        raise ConfigError(f"parameters.{name}: needs value, values, min and max, distribution, or parameters")
    choose(f"parameters.{name}.distribution", kind, DISTRIBUTIONS)
    needed, optional = DISTRIBUTIONS[kind]
    for key in spec:
        _check_key(f"parameters.{name}", key, [*needed, *optional, "distribution"])
    missing = [key for key in needed if key not in spec]
    if missing:
        raise ConfigError(f"parameters.{name}: {kind} needs {' and '.join(missing)}")
    _check_values(name, kind, spec)
    return {**spec, "distribution": kind}


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


def _check_key(where: str, key: str, keys: list[str]) -> None:
    if key not in keys:
        near = nearest(key, keys)
        raise ConfigError(
            f"no such key {where}.{key}; " + (f"nearest: {near}" if near else f"it takes: {', '.join(keys)}")
        )


def _check_values(name: str, kind: str, spec: dict[str, Any]) -> None:
    values = spec.get("values")
    if "values" in spec and (not isinstance(values, list) or not values):
        raise ConfigError(f"parameters.{name}.values is {values!r}; it must be a list of at least one value")
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
