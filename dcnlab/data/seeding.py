"""Seeds of an image's random numbers, independent of the worker, the batch and other draws."""

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
    """Seed torch's global generator, which torchvision's transforms draw from, by the numbers; give it back after.

    Args:
        numbers: what the random numbers are a function of, such as the seed, the pass and the index of an image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(*numbers))
        yield
