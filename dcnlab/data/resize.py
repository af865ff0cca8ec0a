"""The size that an image is resized to."""

from __future__ import annotations


def resized(height: int, width: int, shorter_side: int | None, longer_side: int | None) -> tuple[int, int]:
    """Height and width of an image resized so that no side exceeds its limit and one reaches it, ratio kept.

    Without a limit of the shorter side the image keeps its size, but for what the longer side's takes away.
    """
    scale = 1.0 if shorter_side is None else shorter_side / min(height, width)
    if longer_side is not None:
        scale = min(scale, longer_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
