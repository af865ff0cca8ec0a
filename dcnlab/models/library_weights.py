"""Loads weights into networks of torchvision and timm: the libraries' own, a package's, a file's or a run's."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from dcnlab.config import libraries
from dcnlab.config.names import IMAGENET
from dcnlab.io import torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.models.library_network import whole_network
from dcnlab.models.peer_names import without_wrappers
from dcnlab.models.weights import downloaded
from dcnlab.models.weights_file import read, with_our_offsets
from dcnlab.models.weights_report import of_offsets, offset_hint, report, shape_text, some

_log = logging.getLogger(__name__)


def load_library(model: nn.Module, name: str, library: tuple[str, str], weights: str) -> None:
    """Load a network's weights, and log by name what did not match.

    Names are compared with "." and "_" as equal, because timm's features write layer "stages.0" as "stages_0". A
    prefix before them all, as a run's checkpoint has it, is removed.

    Args:
        model: a whole network or a `Trunk`.
        name: `model.backbone.name`.
        library: from `names.library_of`.
        weights: `model.backbone.weights`.

    Raises:
        ConfigError: no such file or weights, or they do not fit; one line.
    """
    if weights == "none":
        return
    state = _imagenet(name, library, weights) if weights in IMAGENET else _of_file(Path(weights))
    wanted = model.state_dict()
    head = _last_layer(model)
    loaded = _matched(list(wanted), state)
    for key in [key for key in loaded if key in head and loaded[key].shape != wanted[key].shape]:
        del loaded[key]
    wrong = [
        f"{key} is {shape_text(value)}, should be {shape_text(wanted[key])}"
        for key, value in loaded.items()
        if value.shape != wanted[key].shape
    ]
    absent = [key for key in wanted if key not in loaded and not key.endswith("num_batches_tracked")]
    new = [key for key in absent if key in head or of_offsets(key)]
    for kind, keys in (("of another shape", wrong), ("missing", [key for key in absent if key not in new])):
        if keys:
            hint = offset_hint(model, loaded) if keys is wrong else ""
            raise ConfigError(f"model.backbone.weights {weights!r} does not fit {name}; {kind}: {some(keys)}{hint}")
    if spoilt := torch_file.not_finite(loaded):
        raise ConfigError(f"model.backbone.weights {weights!r} holds NaN or infinity in {some(spoilt)}")
    model.load_state_dict(loaded, strict=False)
    taken = {id(value) for value in loaded.values()}
    unused = [key for key, value in state.items() if id(value) not in taken and not key.endswith("tracked")]
    _log.info("%s", report(weights, list(loaded), [some(unused)] if unused else [], new))


def _of_file(path: Path) -> dict[str, Tensor]:
    return with_our_offsets(path, without_wrappers(read(path)))


def _imagenet(name: str, library: tuple[str, str], weights: str) -> dict[str, Tensor]:
    if name in libraries.PACKAGED:
        # The package's layers are timm's in the same order, under other names.
        state = read(libraries.packaged_weights(name))
        keys = whole_network(*library, 1000).state_dict()
        if [value.shape for value in keys.values()] != [value.shape for value in state.values()]:
            raise ConfigError(f"model.backbone.weights {weights!r}: the package's file does not hold {name}")
        return dict(zip(keys, state.values(), strict=True))
    if library[0] == "torchvision":
        return downloaded(library[1], weights)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the command's result
            return libraries.timm().create_model(library[1], pretrained=True).state_dict()
    except Exception as error:  # timm, huggingface_hub and its clients raise many kinds of errors
        raise ConfigError(
            f"model.backbone.weights is {weights!r}, but {name}'s weights cannot be downloaded ({one_line(error)}); "
            "name the path of a state dict, or none"
        ) from error


def _matched(wanted: list[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by the network's names; of several networks in it, the one that fits best.

    torchvision's detectors and DeepLab take a MobileNet's `features` apart: `features.0` is `backbone.body.0` or
    `backbone.0` there.
    """
    given = {_plain(key): value for key, value in state.items()}
    short = {key: _plain(key.removeprefix("network.").removeprefix("model.")) for key in wanted}
    whole = _with_prefix(short, given)
    bare = {key: name.removeprefix("features_") for key, name in short.items()}
    return whole or _with_prefix(bare, given)


def _with_prefix(names: dict[str, str], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under names behind a common prefix: the one with most of them, then the shortest."""
    first = next(iter(names.values()))
    prefixes = {key.removesuffix(first) for key in given if key.endswith(first)}

    def fit(prefix: str) -> tuple[int, int]:
        return sum(prefix + name in given for name in names.values()), -len(prefix)

    prefix = max(prefixes, key=fit, default="")
    return {key: given[prefix + name] for key, name in names.items() if prefix + name in given}


def _plain(key: str) -> str:
    return key.replace(".", "_")


def _last_layer(model: nn.Module) -> Iterable[str]:
    """The parameters of a whole network's last layer, whose size is that of the classes; none of a `Trunk`."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if hasattr(model, "strides") or not layers:
        return ()
    return (f"{layers[-1]}.weight", f"{layers[-1]}.bias")
