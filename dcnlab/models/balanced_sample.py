"""A random sample of an image's anchors or proposals that holds positives and negatives in a given ratio."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler


def balanced_sample(
    labels: Tensor, count: int, positive_fraction: float, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draw from one image's anchors or proposals.

    Args:
        labels: (n,), above 0 positive, 0 negative, -1 takes no part.
        count: drawn at most.
        positive_fraction: of `count`, positive at most.
        seed: of the draw, which then is the same whatever was drawn before, on this rank or another; None: torch's
            own generator of the device.

    Returns:
        (n,) bool, the positives drawn, and (n,) bool, the negatives.
    """
    sampler = BalancedPositiveNegativeSampler(count, positive_fraction)
    on_gpu = labels.device.type == "cuda"
    with torch.random.fork_rng([labels.device] if on_gpu else [], enabled=seed is not None):
        if seed is not None:
            generators = torch.cuda.default_generators
            (generators[labels.get_device()] if on_gpu else torch.default_generator).manual_seed(seed)
        positive, negative = sampler([labels])
    return positive[0].bool(), negative[0].bool()
