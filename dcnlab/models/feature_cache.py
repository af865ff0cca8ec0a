"""FeatureCache: the maps of a frozen trunk on disk, found again by its weights and by the pixels of the image."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dcnlab.io.atomic import write_whole
from dcnlab.io.files import open_regular

_DIGITS = 32
"""Hexadecimal digits of a hash in the name of a folder or a file."""


class FeatureCache:
    """Computes a trunk's map of each image once, and reads it from a file after that.

    A map's file is named by a hash of the image's numbers. So an image that was resized, mirrored or normalised in
    another way has another file, and no list of transforms is needed. The folder is named by a hash of the trunk: its
    weights, its layers, torch's version and the kind of device. Several processes can use the same folder.

    Args:
        folder: for the folders of all trunks; made when the first map is written.
        trunk: in evaluation mode; it must not change as long as the cache is used.
        stage: which of its maps is kept, such as res4.
    """

    def __init__(self, folder: Path, trunk: nn.Module, stage: str) -> None:
        self.folder = folder / f"{_digest_of(trunk)}-{stage}"
        self.computed = 0
        """Maps that were not on disk."""
        self._trunk, self._stage = trunk, stage

    def maps(self, images: Tensor, stride: int) -> Tensor:
        """The trunk's maps of a batch, each computed from its image alone.

        Rows and columns of zeros below and to the right of an image, by which a batch is padded, are cut off first, up
        to a multiple of the stride; its map is padded by zeros instead. So the map depends on no other image.

        Args:
            images: (N, 3, H, W), normalised.
            stride: of the map, pixels.

        Returns:
            (N, channels, ceil(H / stride), ceil(W / stride)), without a gradient.
        """
        height, width = (-(-side // stride) for side in images.shape[-2:])
        maps = [self._map(image) for image in (_without_padding(image, stride) for image in images)]
        return torch.stack([pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in maps]).to(images.device)

    def _map(self, image: Tensor) -> Tensor:
        content = image.detach().float().cpu().contiguous().numpy()
        name = hashlib.sha256(repr((image.shape, image.dtype)).encode() + content.tobytes()).hexdigest()[:_DIGITS]
        path = self.folder / f"{name}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError), open_regular(path) as file:
            return torch.from_numpy(np.load(file, allow_pickle=False)).to(image.dtype)
        self.computed += 1
        # Without autocast: the map must not depend on the precision of the steps that follow.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            features: Tensor = self._trunk(image[None])[self._stage][0].cpu()
        buffer = io.BytesIO()
        np.save(buffer, features.float().contiguous().numpy())
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getbuffer())
        return features


def _without_padding(image: Tensor, stride: int) -> Tensor:
    """An image (3, H, W) without the zeros at its end, its sides rounded up to the stride; all of it if it is black."""
    filled = image.ne(0).any(0)
    sides = []
    for axis in (1, 0):
        places = filled.any(axis).nonzero()
        last = int(places[-1]) + 1 if len(places) else filled.shape[1 - axis]
        sides.append(min(-(-last // stride) * stride, filled.shape[1 - axis]))
    return image[:, : sides[0], : sides[1]]


def _digest_of(trunk: nn.Module) -> str:
    """A hash of what decides a trunk's maps; the text of a network states strides and dilations."""
    devices = sorted({parameter.device.type for parameter in trunk.parameters()})
    total = hashlib.sha256(repr((str(trunk), torch.__version__, devices)).encode())
    for name, value in trunk.state_dict().items():
        total.update(repr((name, value.dtype, value.shape)).encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:_DIGITS]
