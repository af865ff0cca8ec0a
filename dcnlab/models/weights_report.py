"""Lines about loaded weights: what was loaded into which part, what is left, and why a layer does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from torch import Tensor, nn

from dcnlab.nn.deform_conv2d import DeformConv2d


def report(source: str, loaded: Collection[str], unused: Collection[str], new: Collection[str]) -> str:
    """One line: how many tensors were loaded into each part, what of the file was not used, what is new."""
    by_part = Counter("offset layers" if of_offsets(key) else _part(key) for key in loaded)
    into = ", ".join(f"{part} {count}" for part, count in by_part.items())
    parts = [f"weights {source}: {len(loaded)} tensors loaded" + (f" ({into})" if into else "")]
    if unused:
        parts.append(f"not used: {', '.join(unused)}")
    if new:
        parts.append(f"not in the file and new: {', '.join(new)}")
    return "; ".join(parts)


def _part(key: str) -> str:
    return key.removeprefix("network.").removeprefix("model.").partition(".")[0]


def of_offsets(key: str) -> bool:
    """Whether a tensor is an offset convolution's, an active layer's offsets, or what adds a control's maps."""
    names = key.split(".")
    return "offset_conv" in names or names[-1] in ("offset", "added")


def offset_hint(model: nn.Module, state: dict[str, Tensor]) -> str:
    """The settings with which a file's offset convolutions fit the network's; empty where none is known.

    Args:
        model: with deformable layers.
        state: of a file, under the network's names.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, DeformConv2d)}
    for name, layer in layers.items():
        weight = state.get(f"{name}.offset_conv.weight")
        if weight is None or weight.ndim != 4 or weight.shape == layer.offset_conv.weight.shape:
            continue
        for modulated in (layer.modulated, not layer.modulated):
            taps = weight.shape[2] * weight.shape[3]
            groups, remainder = divmod(weight.shape[0], (3 if modulated else 2) * taps)
            if groups and not remainder and layer.in_channels % groups == 0:
                return f"; model.modulated={str(modulated).lower()} model.offset_groups={groups} fit its offset layers"
    return ""


def plain_here(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Layers that are deformable in a file and plain in the network."""
    names = (key.removesuffix(".offset_conv.weight") for key in state if key.endswith(".offset_conv.weight"))
    modules = dict(model.named_modules())
    return [name for name in names if name in modules and not hasattr(modules[name], "offset_conv")]


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many follow."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shape_text(value: Tensor) -> str:
    """A tensor's sizes, as in 64x3x7x7."""
    return "x".join(map(str, value.shape)) or "a scalar"
