"""Weights of other programs: their wrappers of a state dict, prefixes and layer names.

Wrappers and prefixes are those of torch's own scripts, DataParallel, torch.compile, mmdetection, detectron2,
torchvision's detectors, timm and self-supervised learners. Names of layers are detectron2's ResNets', and the
deformable layers' of mmcv (`conv2.conv_offset`) and detectron2 (`conv2_offset`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from torch import Tensor

from dcnlab.models import caffe_resnet

WRAPPERS = "state_dict model_state_dict model_state model module net network params weights teacher".split()
"""Keys that a state dict is looked for under, the first of them first, then others but those of `_COPIES`."""

_COPIES = set(
    "encoder_k momentum_encoder key_encoder target_encoder student "
    "ema model_ema ema_model state_dict_ema ema_state_dict params_ema".split()
)
"""Of two networks in one file, those that are not taken: that program resumes with the other one."""

_DEEPEST = 8
_INSERTED = re.compile(r"(^|\.)(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
_MARK = re.compile(r"(?P<prefix>(?:.+\.)?)(?:layer1\.0\.(?:conv1|branch_a\.conv1)|res2\.0\.conv1)\.weight")

_OFFSETS = re.compile(r"(?P<layer>.+?)(?:\.conv_offset(?:_mask)?|_offset)\.(?:weight|bias)")
_DETECTRON2 = re.compile(
    r"(?:(?P<stem>stem)|res(?P<stage>[2-5])\.(?P<block>\d+))\.(?:conv(?P<conv>[123])|(?P<shortcut>shortcut))"
    r"(?P<norm>\.norm)?\.(?P<rest>.+)"
)


def unwrap(contents: Any) -> tuple[Any, str]:
    """Take a state dict out of the dicts around it.

    Of several it is the first with a residual network, in the order of `WRAPPERS`.

    Returns:
        The state dict, and the keys that lead to it, joined by dots. Where none has a residual network, the first; all
        of the contents where there is no state dict.
    """
    first = None
    for state, path in _states(contents, [], set()):
        if network(state)[2] or caffe_resnet.recognises(state):
            return state, ".".join(path)
        first = first or (state, ".".join(path))
    return first or (contents, "")


def _states(contents: Any, path: list[str], seen: set[int]) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    if not isinstance(contents, dict) or not contents or len(path) > _DEEPEST or id(contents) in seen:
        return
    seen.add(id(contents))
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in contents.items()):
        yield contents, path
        return
    for key in sorted((key for key in contents if isinstance(key, str)), key=_rank):
        yield from _states(contents[key], [*path, key], seen)


def _rank(key: str) -> int:
    if key in WRAPPERS:
        return WRAPPERS.index(key)
    return len(WRAPPERS) + (key in _COPIES)


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names, without what torch.compile and FSDP insert into them."""
    return {_INSERTED.sub(r"\1", key): value for key, value in state.items()}


def network(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Take the residual network out of a state dict, without the prefix of its names.

    Its prefix is found by its first block, whatever it is: `module.`, `model.backbone.body.`, `module.encoder_q.`. Of
    several networks it is that without a name for a copy (`encoder_k`, `student`, `ema`), then the shortest prefix,
    then the first in the file.

    Returns:
        The network's tensors, all of the file's where there is no such block; `NAME.* (COUNT)` for the file's other
        parts; and the prefixes of all its networks, that of the one taken first.
    """
    state = without_wrappers(state)
    all_prefixes = dict.fromkeys(match["prefix"] for match in map(_MARK.fullmatch, state) if match)
    prefixes = sorted(all_prefixes, key=lambda prefix: (not _COPIES.isdisjoint(prefix.split(".")), prefix.count(".")))
    if not prefixes:
        return state, [], []
    prefix = prefixes[0]
    within = tuple(other for other in prefixes[1:] if other.startswith(prefix))
    tensors = {key: state[key] for key in state if key.startswith(prefix) and not key.startswith(within)}
    others = Counter(_part(key, prefix) for key in state if key not in tensors)
    taken = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return taken, [f"{part}.* ({count})" for part, count in others.items()], prefixes


def _part(key: str, prefix: str) -> str:
    """A name up to the first word that differs from a prefix."""
    names = key.split(".")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(names, prefix.split("."), strict=False))
    return ".".join(names[: len(list(same)) + 1])


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of detectron2's ResNets."""
    return "stem.conv1.weight" in state and "res2.0.conv1.weight" in state


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of detectron2's ResNet torchvision's names; others keep theirs."""
    return {_torchvisions(key): value for key, value in state.items()}


def _torchvisions(key: str) -> str:
    match = _DETECTRON2.fullmatch(re.sub(r"^linear\.", "fc.", key).replace("conv2_offset.", "conv2.conv_offset."))
    if match is None:
        return re.sub(r"^linear\.", "fc.", key)
    prefix = "" if match["stem"] else f"layer{int(match['stage']) - 1}.{match['block']}."
    if match["shortcut"]:
        return f"{prefix}downsample.{1 if match['norm'] else 0}.{match['rest']}"
    return f"{prefix}{'bn' if match['norm'] else 'conv'}{match['conv']}.{match['rest']}"


def rename_offsets(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Give the offset convolutions of mmcv and detectron2 our name, `offset_conv`, and make modulated layers equal.

    Channels have the same order in all three: y before x for each tap, then the factors' logits. The others' factor is
    a sigmoid, ours twice one; so the weight of their modulated layers is halved, which is exact, and the layer computes
    what theirs does. A layer is modulated where it has 3 channels for each tap and offset group, not 2.

    Returns:
        The tensors; the renamed layers, old name to new; and the halved weights' names.
    """
    mapped: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    halved: list[str] = []
    for key, value in state.items():
        match = _OFFSETS.fullmatch(key)
        layer = match["layer"] if match else ""
        if match is None or f"{layer}.weight" not in state:
            mapped[key] = value
            continue
        mapped[f"{layer}.offset_conv.{key.rpartition('.')[2]}"] = value
        renamed[key.rpartition(".")[0]] = f"{layer}.offset_conv"
        if key.endswith(".weight") and _is_modulated(value):
            halved.append(f"{layer}.weight")
    return mapped | {name: mapped[name] / 2 for name in halved}, renamed, halved


def _is_modulated(weight: Tensor) -> bool:
    """Tell by the channels: that 2 and 3 a tap both fit is possible only where a multiple of 3 divides the input's."""
    if weight.ndim != 4:
        return False
    channels, inputs, height, width = weight.shape
    groups, remainder = divmod(channels, 3 * height * width)
    return not remainder and groups > 0 and inputs % groups == 0
