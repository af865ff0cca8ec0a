"""Seeds of an image's random numbers, which depend on neither loader process nor batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def mix(*numbers: int) -> int:
    """Hash whole numbers to 63 bits, the same in every process and on every machine (FNV-1a over 64-bit words)."""
    value = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(8, "little", signed=True):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return value >> 1


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generator, which torchvision's transforms use, by the numbers, and restore its state after.

    Args:
        numbers: such as the seed, the epoch and the index of an image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(*numbers))
        yield
