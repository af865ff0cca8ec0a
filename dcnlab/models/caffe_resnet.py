"""The original ResNets' weights, under Caffe's layer names as the paper's authors have them, for torchvision's ones.

The authors' MXNet files are Caffe's, converted: `res4b22_branch2c_weight`, `bn4b22_branch2c_gamma`. Caffe's own blobs
are numbered: `res4b22_branch2c.0`; its norms come in two layers, `bn...` for the statistics and `scale...` for the
rest. One difference of the networks stays: the first pooling's windows start at the map's first pixel in theirs, one
before it in torchvision's, so that features see the image moved by 2 pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

MEANS = (123.15, 115.90, 103.06)
"""Red, green and blue that the authors subtract from images in 0 to 255, which they do not scale."""

NORMALISATION = "data.mean=[{}] data.std=[{}]".format(
    *(",".join(f"{value / 255:.6g}" for value in values) for values in (MEANS, (1, 1, 1)))
)
"""The key=value for images as these networks take them."""
WANTS = f"{NORMALISATION} model.backbone.stride_on_1x1=true"
"""Settings that a dense task's network needs for these weights."""

_MXNET = re.compile(r"(?:arg:|aux:)?(?P<layer>.+)_(?P<part>weight|bias|gamma|beta|moving_mean|moving_var)")
_CAFFE = re.compile(r"(?P<layer>.+)[./](?P<part>[0-2])")
_MARK = re.compile(r"(?:arg:)?res2a_branch2a(?:_weight|[./]0)")
_BLOCK = re.compile(
    r"(?P<kind>res|bn|scale)(?P<stage>[2-5])(?P<letter>[a-z])(?P<number>\d*)_branch(?P<branch>1|2[abc])"
)
_OFFSET = "_offset"
_PARTS = {"0": "weight", "1": "bias", "gamma": "weight", "beta": "bias"} | {
    f"moving_{statistic}": f"running_{statistic}" for statistic in ("mean", "var")
}


def recognises(names: Iterable[str]) -> bool:
    """Whether these are the names of such a file's tensors."""
    return any(_MARK.fullmatch(name) for name in names)


def to_torchvision(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Give the tensors of a ResNet of bottlenecks torchvision's names, and its norms one layer each.

    Caffe's statistics are sums, divided here by the number next to them; a convolution's bias, which the first layer of
    some has, goes into the norm behind it; and conv1 of Caffe's own files takes blue first, the result red. Epsilon is
    1e-5 in the authors' networks, in Caffe and in torchvision. The offset convolutions of the authors' deformable
    networks become ours, which have the same order of channels.

    Args:
        state: a file's tensors by name, MXNet's or Caffe's.

    Returns:
        The tensors under torchvision's names, and the names that stand for nothing in a ResNet, such as a detector's.

    Raises:
        ValueError: a norm of Caffe's has no three blobs; one line that names it.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    foreign = []
    for key, value in state.items():
        match = _MXNET.fullmatch(key) or _CAFFE.fullmatch(key)
        if match is None or _target(match["layer"]) is None:
            foreign.append(key)
        else:
            layers.setdefault(match["layer"], {})[match["part"]] = value
    mapped: dict[str, Tensor] = {}
    for layer, parts in layers.items():
        if layer.startswith("bn") and "0" in parts:
            parts = _statistics(layer, parts)
        mapped |= {f"{_target(layer)}.{_PARTS.get(part, part)}": value for part, value in parts.items()}
    if "0" in layers.get("conv1", {}):
        mapped["conv1.weight"] = mapped["conv1.weight"].flip(1)
    for name in [name for name in mapped if re.search(r"(^|\.)(conv\d|downsample\.0)\.bias$", name)]:
        norm = name.removesuffix(".bias").replace("conv", "bn").replace("downsample.0", "downsample.1")
        if f"{norm}.running_mean" in mapped:
            mapped[f"{norm}.running_mean"] = mapped[f"{norm}.running_mean"] - mapped.pop(name)
    return mapped, foreign


def _target(layer: str) -> str | None:
    """The name of torchvision's layer, or None."""
    if layer in ("conv1", "bn_conv1", "scale_conv1"):
        return "conv1" if layer == "conv1" else "bn1"
    if re.fullmatch(r"fc\d+", layer):
        return "fc"
    match = _BLOCK.fullmatch(layer.removesuffix(_OFFSET))
    if match is None or (layer.endswith(_OFFSET) and match["kind"] != "res"):
        return None
    # Blocks are a, b, c in short stages, and a, b1, b2, ... in long ones.
    block = int(match["number"]) if match["number"] else ord(match["letter"]) - ord("a")
    prefix = f"layer{int(match['stage']) - 1}.{block}"
    convolution = match["kind"] == "res"
    if match["branch"] == "1":
        return f"{prefix}.downsample.{0 if convolution else 1}"
    number = "abc".index(match["branch"][1]) + 1
    offset = ".offset_conv" if layer.endswith(_OFFSET) else ""
    return f"{prefix}.{'conv' if convolution else 'bn'}{number}{offset}"


def _statistics(layer: str, blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean and variance of Caffe's batch norm: sums, and by how much they are too large."""
    if len(blobs) != 3:
        raise ValueError(f"{layer} has {len(blobs)} blobs; a batch norm of Caffe's has 3: mean, variance and factor")
    factor = float(blobs["2"].reshape(-1)[0])
    divide = 1 / factor if factor else 0.0
    return {"running_mean": blobs["0"] * divide, "running_var": blobs["1"] * divide}
