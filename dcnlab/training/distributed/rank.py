"""The rank of this process in its run."""

from __future__ import annotations


def own_rank() -> int:
    """The rank, as Lightning reads it from the launcher; known before the ranks have met."""
    from pytorch_lightning.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", None) or 0)


def is_rank_0() -> bool:
    """Whether this process is rank 0, which alone writes files and prints."""
    return own_rank() == 0
