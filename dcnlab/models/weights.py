"""Loads weights into a backbone, from a file, a run or torchvision; reports what did not match."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from dcnlab.config.model_checks import check_imagenet
from dcnlab.config.names import IMAGENET
from dcnlab.io import torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.models import caffe_resnet
from dcnlab.models.weights_file import read, renamed
from dcnlab.models.weights_report import of_offsets, offset_hint, plain_here, report, shape_text, some

_log = logging.getLogger(__name__)


def load(model: nn.Module, name: str, weights: str) -> None:
    """Load a network's weights, without running code from their file, and log by name what did not match.

    A last layer for other classes, offset layers that the file or the network lacks, and the layers of a head that the
    network does not have are skipped and reported; whatever else does not match is an error. The original ResNets'
    names, Caffe's, are recognised, and a warning says what else these weights want. So are the forms in which other
    programs save (:mod:`dcnlab.models.peer_names`); what is renamed or halved is logged by name.

    Args:
        model: a residual network or its features, under torchvision's names.
        name: of the network, as torchvision has it.
        weights: none; imagenet or imagenet_v2, torchvision's; the path of a state dict (torch's, .safetensors, .npz,
            .caffemodel or .params), or of a run's checkpoint or safetensors, whose backbone is taken.

    Raises:
        ConfigError: no such file or weights, or they do not fit; one line.
    """
    if weights == "none":
        return
    others: list[str] = []
    if weights in IMAGENET:
        state = downloaded(name, weights)
    else:
        state = read(Path(weights))
        if caffe_resnet.recognises(state):
            _log.warning("%s", _wants(model, weights))
        state, others = renamed(Path(weights), state)
    network_state = model.state_dict()
    head = [
        key
        for key in state
        if key.startswith("fc.") and (key not in network_state or state[key].shape != network_state[key].shape)
    ]
    state = {key: value for key, value in state.items() if key not in head}
    wrong = [
        f"{key} is {shape_text(value)}, should be {shape_text(network_state[key])}"
        for key, value in state.items()
        if key in network_state and value.shape != network_state[key].shape
    ]
    absent = [key for key in network_state if key not in state and not key.endswith("num_batches_tracked")]
    new = [key for key in absent if key.startswith("fc.") or of_offsets(key)]
    missing = [key for key in absent if key not in new]
    surplus = [key for key in state if key not in network_state]
    unused = [key for key in surplus if of_offsets(key) or key.endswith("num_batches_tracked")]
    unexpected = [key for key in surplus if key not in unused]
    for kind, names in (("of another shape", wrong), ("missing", missing), ("unexpected", unexpected)):
        if names:
            hint = offset_hint(model, state) if names is wrong else ""
            raise ConfigError(f"model.backbone.weights {weights!r} does not fit {name}; {kind}: {some(names)}{hint}")
    spoilt = torch_file.not_finite({key: value for key, value in state.items() if key in network_state})
    if spoilt:
        raise ConfigError(f"model.backbone.weights {weights!r} holds NaN or infinity in {some(spoilt)}")
    model.load_state_dict(state, strict=False)
    unused = [key for key in [*head, *unused, *others] if not key.endswith("num_batches_tracked")]
    _log.info("%s", report(weights, [key for key in state if key in network_state], unused, new))
    if plain := plain_here(model, state):
        text = "weights %s: %d layers are deformable in the file and plain here: %s; model.deform_layers counts them"
        _log.warning(text, weights, len(plain), some(plain))


def torchvisions(name: str, weights: str) -> Any:
    """The member of torchvision's enum that `imagenet` or `imagenet_v2` stands for.

    Raises:
        ConfigError: the network has no such weights; names those that have.
    """
    check_imagenet(name, weights)
    return models.get_model_weights(name)[IMAGENET[weights]]


def downloaded(name: str, weights: str) -> dict[str, Tensor]:
    """ImageNet's weights from torchvision's cache or its server."""
    member = torchvisions(name, weights)
    try:
        # Not torch's defaults: those accept a truncated download, and run code from a cached file that another user may
        # have written.
        with contextlib.redirect_stdout(sys.stderr):  # torch's notice; stdout is for the command's result
            state = member.get_state_dict(check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError, UnpicklingError) as error:
        reason = torch_file.reason(error)
        raise ConfigError(
            f"model.backbone.weights is {weights!r}, but {name}'s weights cannot be downloaded ({reason}); "
            "name the path of a state dict, or none"
        ) from error
    return dict(state)


def _wants(model: Any, weights: str) -> str:
    """Name the settings that the original ResNets' weights need of a network; one line."""
    line = f"weights {weights} are an original ResNet's, of images with {caffe_resnet.NORMALISATION}"
    block = model.layer2[0]
    if isinstance(block, Bottleneck) and max(block.conv1.stride) < max(block.conv2.stride):
        line += " and strides on 1x1 convolutions: model.backbone.stride_on_1x1=true (dense tasks), which is false here"
    return line
