"""Foreign weights of a ResNet, written under torchvision's names for `model.backbone.weights`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save

from dcnlab.config.value_checks import choose
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.models import caffe_resnet, weights_file

KINDS = ("mmdet", "detectron2", "torchvision", "caffe", "mxnet")
"""Programs whose files are read; Caffe's and MXNet's own files are told by their endings where none is named."""
_ENDINGS = {"caffe": ".caffemodel", "mxnet": ".params"}
_OUT = (".safetensors", ".pt", ".pth")


def convert(source: Path, out: Path, kind: str | None = None) -> list[str]:
    """Write a ResNet's weights from another program's file, all or nothing.

    Args:
        source: Caffe's .caffemodel, MXNet's .params, or what `model.backbone.weights` reads.
        out: .safetensors, .pt or .pth; the names are torchvision's, the values float32.
        kind: of `KINDS`; None is told by the file.

    Returns:
        Notes: the tensors written, those left out, and the settings that a network needs for these weights.

    Raises:
        ConfigError: the file cannot be read, or holds no ResNet; one line.
    """
    if out.suffix not in _OUT:
        raise ConfigError(f"{out} ends in {out.suffix!r}; it must end in one of: {', '.join(_OUT)}")
    if kind is not None:
        choose("--from", kind, KINDS)
    state = weights_file.read(source, _ENDINGS.get(kind or ""))
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
    notes = [f"{len(tensors)} tensors written" + (f"; not used: {', '.join(others)}" if others else "")]
    if original:
        notes.append(f"the weights are an original ResNet's; they want {caffe_resnet.WANTS}")
    return notes
