"""Names of a model's convolutions: all, those of a kernel size in forward order, and those that patterns match."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import Tensor, nn

from dcnlab.io.text import closest
from dcnlab.nn import trial_pass
from dcnlab.nn.added_conv2d import AddedConv2d
from dcnlab.nn.deform_conv2d import DeformConv2d


class LayerNotFoundError(ValueError):
    """A name, pattern or number of layers that the model does not have."""


def conv_layers(
    model: nn.Module, kernel_size: int | tuple[int, int] | None = 3, example: Tensor | None = None
) -> list[str]:
    """List the names of a model's convolutions of one kernel size, in the order in which a forward pass uses them.

    The order is found by a pass in evaluation mode on shapes alone: no arithmetic, no change to the model or to the
    random generators, no call of the model's hooks, and no word on stderr but the warning below. Layers that the pass
    does not reach (training-time heads, say) stand first, so that "the last n" are layers of the main path.


    Args:
        model: any module with nn.Conv2d or DeformConv2d layers; the offset convolutions inside the latter do not count.
        kernel_size: int or (height, width); None: every size above 1x1.
        example: an input of the model; by default one image of 224x224 with the first layer's channels. If the pass
            fails before it has reached every convolution, a warning says so, and layers stand in the order of their
            registration.
    """
    convs = convs_of(model)
    order = _forward_order(model, convs, example)
    if kernel_size is None:
        return [name for name in order if max(convs[name].kernel_size) > 1]
    size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    return [name for name in order if convs[name].kernel_size == size]


def convs_of(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every convolution by name, in the order of registration, without the offset branches of ours."""
    branches = {id(module.offset_conv) for module in model.modules() if isinstance(module, DeformConv2d | AddedConv2d)}
    return {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, nn.Conv2d) and id(module) not in branches
    }


def _forward_order(model: nn.Module, convs: dict[str, nn.Conv2d], example: Tensor | None) -> list[str]:
    reached: dict[str, None] = {}
    problem: Exception | None = None
    # Which convolution sees the image is not known before: try the first one's channels, then the others'.
    channels = [0] if example is not None else dict.fromkeys(conv.in_channels for conv in convs.values())
    with trial_pass.without_a_trace(model):
        for name, conv in convs.items():
            conv.register_forward_pre_hook(lambda _module, _input, name=name: reached.setdefault(name))
        for count in channels:
            reached.clear()
            problem = trial_pass.run_on_shapes(model, example, count)
            if problem is None or len(reached) == len(convs):
                break
    missing = [name for name in convs if name not in reached]
    if problem is not None and missing:
        warnings.warn(
            f"conv_layers: a pass on {'one 224x224 image' if example is None else 'the example'} failed ({problem}); "
            f"layers are listed in the order of their registration. Pass example= for the true order.",
            stacklevel=4,
        )
        return list(convs)
    return [*missing, *reached]


def selected_layers(
    model: nn.Module,
    layers: int | str | Iterable[str],
    convs: dict[str, nn.Conv2d],
    kernel_size: int | tuple[int, int] | None,
) -> list[str]:
    """The names that `layers` stands for, each once; a number counts the layers of a kernel size."""
    if isinstance(layers, bool) or (isinstance(layers, int) and layers < 0):
        raise ValueError(f"layers: expected names or a number of at least 0, got {layers!r}")
    if isinstance(layers, int):
        last = conv_layers(model, kernel_size) if layers else []
        if layers > len(last):
            raise LayerNotFoundError(
                f"layers: {layers} asked for, but the model has {len(last)} {_size_text(kernel_size)}"
                + _other_sizes(convs, kernel_size)
            )
        return last[len(last) - layers :]
    selected: dict[str, None] = {}
    for pattern in [layers] if isinstance(layers, str) else layers:
        if pattern in convs:
            matches = [pattern]
        else:
            matches = [n for n, conv in convs.items() if fnmatchcase(n, pattern) and max(conv.kernel_size) > 1]
        if not matches:
            raise LayerNotFoundError(f"layers: {pattern!r} matches no convolution{_nearest(pattern, convs)}")
        selected.update(dict.fromkeys(matches))
    return list(selected)


def _size_text(kernel_size: int | tuple[int, int] | None) -> str:
    if kernel_size is None:
        return "convolutions above 1x1"
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return f"{height}x{width} convolutions"


def _other_sizes(convs: dict[str, nn.Conv2d], kernel_size: int | tuple[int, int] | None) -> str:
    """The kernel sizes above 1x1 that a model has besides the one that was asked for; with kernel_size alone."""
    wanted = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    sizes = Counter(conv.kernel_size for conv in convs.values() if max(conv.kernel_size) > 1)
    others = [f"{count} of {size[0]}x{size[1]}" for size, count in sorted(sizes.items()) if size != wanted]
    return f"; kernel_size takes others: {', '.join(others)}" if others and wanted else ""


def _nearest(pattern: str, names: Iterable[str]) -> str:
    known = list(names)
    near = closest(pattern, known, count=3, cutoff=0)
    return f"; nearest: {', '.join(near)}" if near else "; the model has none"
