"""Foreign weights of a ResNet, written under torchvision's names for `model.backbone.weights`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dcnlab.config.value_checks import choose
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.models import caffe_resnet, peer_names, weights_file
from dcnlab.models.weights_report import report

KINDS = ("mmdet", "detectron2", "torchvision", "caffe", "mxnet")
"""Programs whose files are read; Caffe's and MXNet's own files are told by their endings where none is named."""
_ENDINGS = {"caffe": ".caffemodel", "mxnet": ".params"}
_OUT = (".safetensors", ".pt", ".pth")


def convert(source: Path, out: Path, kind: str | None = None) -> list[str]:
    """Write a ResNet's weights from another program's file, all or nothing.

    Args:
        source: Caffe's .caffemodel, MXNet's .params, or what `model.backbone.weights` reads.
        out: .safetensors, .pt or .pth; the names are torchvision's, the values float32.
        kind: of `KINDS`; None is told by the file. mmdetection's plain ResNets have torchvision's names.

    Returns:
        Notes: the tensors written by part, those left out, and the settings that a network needs for these weights.

    Raises:
        ConfigError: the file cannot be read, is of another kind, or holds no ResNet; one line.
    """
    if out.suffix not in _OUT:
        raise ConfigError(f"{out} ends in {out.suffix!r}; it must end in one of: {', '.join(_OUT)}")
    if kind is not None:
        choose("--from", kind, KINDS)
    state = weights_file.read(source, _ENDINGS.get(kind or ""))
    _check_kind(source, state, kind)
    original = caffe_resnet.recognises(state)
    state, others = weights_file.renamed(source, state)
    if "layer1.0.conv1.weight" not in state:
        raise ConfigError(f"{source} holds no ResNet; its first tensors are {', '.join(list(state)[:3]) or 'none'}")
    tensors = {name: value.detach().float().contiguous() for name, value in sorted(state.items())}
    if out.suffix == ".safetensors":
        write_whole(out, save(tensors))
    else:
        temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            torch.save(tensors, temporary)
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    notes = [report(str(source), list(tensors), others, []).replace("loaded", "written", 1)]
    if original:
        notes.append(f"the weights are an original ResNet's; they want {caffe_resnet.WANTS}")
    return notes


def _check_kind(source: Path, state: dict[str, Tensor], kind: str | None) -> None:
    """Refuse a file whose layers have the names of another program.

    Raises:
        ConfigError: it is not of `kind`; one line with the kind that it is of.
    """
    fitting = _kinds(state)
    if kind is not None and fitting and kind not in fitting:
        raise ConfigError(f"--from is {kind!r}, but the layers of {source} have the names of {' or '.join(fitting)}")


def _kinds(state: dict[str, Tensor]) -> tuple[str, ...]:
    """The programs whose names a file's layers have; empty: of none."""
    if caffe_resnet.recognises(state):
        return ("caffe", "mxnet")
    tensors, _, prefixes = peer_names.network(state)
    if peer_names.is_detectron2(tensors):
        return ("detectron2",)
    if not prefixes:
        return ()
    if any(".conv_offset" in key or ".conv2_offset." in key for key in tensors):
        return ("mmdet",)
    return ("torchvision",) if prefixes[0].endswith("backbone.body.") else ("mmdet", "torchvision")
