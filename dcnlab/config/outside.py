"""Classes from outside dcnlab, by a name `package.module:Class`; imported only where the user allows it.

A config that was read from a run folder or a checkpoint may come from somebody else. Its names are plain text, from
which nothing can be built. `admit` imports a class and puts an `OutsideName` in the place of the text, so that the
class travels with the config. Everything that builds takes the class from there, and imports nothing.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dcnlab.config.libraries import has_prefix
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, one_line

KEYS = ("data.name", "model.name", "model.backbone.name", "model.deform_kind")
"""Keys that take a class from outside."""
Allowed = str | type | Callable[..., Any]
"""A class that a caller allows: the class, or the name of the class, its module or a package around it."""

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_<][\w.<>]*")


class OutsideName(str):
    """The name of a class, with the class that it stands for.

    Args:
        name: `package.module:Class`.
        target: the class, or a function that is called like one.
    """

    target: Any

    def __new__(cls, name: str, target: Any = None) -> OutsideName:
        """The name with its class; None is set later, by `copy`."""
        outside = super().__new__(cls, name)
        outside.target = target
        return outside


def is_outside(name: Any) -> bool:
    """Whether a value names a class from outside, or is one."""
    return callable(name) or (isinstance(name, str) and ":" in name and not has_prefix(name))


def check_form(key: str, name: str) -> None:
    """Check that a name is of the form `package.module:Class`.

    Raises:
        ConfigError: it is not; names the key.
    """
    if not _FORM.fullmatch(name):
        raise ConfigError(f"{key} is {name!r}; a class from outside dcnlab is named package.module:Class")


def target(key: str, name: str) -> Any:
    """The class of an admitted name.

    Raises:
        ConfigError: nobody has allowed it.
    """
    if not isinstance(name, OutsideName) or name.target is None:
        raise _refusal("the config", key, name)
    return name.target


def admit(config: Config, allowed: Iterable[Allowed] | None, source: str) -> None:
    """Import the classes that a config names, where they are allowed, in place.

    Args:
        config: its names become `OutsideName`s.
        allowed: what the user allows; None allows all, for a config that the caller wrote.
        source: of the config, for messages.

    Raises:
        ConfigError: a name is not allowed, or cannot be imported; names the key and what to allow.
    """
    given = {name_of(value): value for value in allowed or () if not isinstance(value, str)}
    texts = [value for value in allowed or () if isinstance(value, str)]
    for key in KEYS:
        section, field = _section(config, key)
        name = getattr(section, field)
        if not is_outside(name) or isinstance(name, OutsideName):
            continue
        if not isinstance(name, str):
            setattr(section, field, OutsideName(name_of(name), name))
        elif name in given:
            setattr(section, field, OutsideName(name, given[name]))
        elif allowed is None or any(_covers(text, name) for text in texts):
            setattr(section, field, OutsideName(name, _imported(key, name)))
        else:
            raise _refusal(source, key, name)


def names_in(layer: dict[str, Any]) -> list[str]:
    """The names of outside classes among the values of dotted keys."""
    return [layer[key] for key in KEYS if isinstance(layer.get(key), str) and is_outside(layer[key])]


def modules_of(config: Config) -> list[str]:
    """The modules of the classes that a config names, each once: what `--allow` has to name."""
    values = [value for value in (getattr(*_section(config, key)) for key in KEYS) if is_outside(value)]
    named = [value if isinstance(value, str) else name_of(value) for value in values]
    return list(dict.fromkeys(name.partition(":")[0] for name in named))


def name_of(value: Any) -> str:
    """The name under which a class, or a function, is written into a config."""
    return f"{value.__module__}:{value.__qualname__}"


def _section(config: Config, key: str) -> tuple[Any, str]:
    *sections, field = key.split(".")
    section: Any = config
    for name in sections:
        section = getattr(section, name)
    return section, field


def _covers(allowed: str, name: str) -> bool:
    module = name.partition(":")[0]
    return allowed in (name, module) or module.startswith(f"{allowed}.")


def _imported(key: str, name: str) -> Any:
    check_form(key, name)
    module_name, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{key} is {name!r}, and {module_name} cannot be imported ({one_line(error)}); install it, or put its "
            "folder into PYTHONPATH"
        ) from error
    for part in path.split("."):
        if not hasattr(value, part):
            near = nearest(part, [other for other in dir(value) if not other.startswith("_")])
            raise ConfigError(
                f"{key} is {name!r}, and {module_name} has no {path}" + (f"; nearest: {near}" if near else "")
            )
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"{key} is {name!r}, a {type(value).__name__}; it must be a class or a function")
    return value


def _refusal(source: str, key: str, name: str) -> ConfigError:
    module = name.partition(":")[0]
    return ConfigError(
        f"{source}: {key} is {name!r}, code from outside dcnlab, which a run may not import by itself; where you "
        f"trust it, allow it: --allow {module}, or name it again: {key}={name}"
    )


def sequence(allow: Sequence[Allowed] | Allowed) -> list[Allowed]:
    """The classes that a caller allows, as a list; a single name or class may stand alone."""
    return [allow] if isinstance(allow, str) or callable(allow) else list(allow)
