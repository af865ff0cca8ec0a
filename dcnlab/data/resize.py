"""The size that an image is resized to."""

from __future__ import annotations

from collections.abc import Sequence


def resized(height: int, width: int, shorter_side: int | None, longer_side: int | None) -> tuple[int, int]:
    """Height and width of an image resized so that no side exceeds its limit and one reaches it, ratio kept.

    Without a limit of the shorter side the image keeps its size, but for what the longer side's takes away.
    """
    scale = 1.0 if shorter_side is None else shorter_side / min(height, width)
    if longer_side is not None:
        scale = min(scale, longer_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def longer_limits(
    shorter_sides: Sequence[int], longer_sides: Sequence[int] | None, shorter_side: int | None, longer_side: int | None
) -> list[int | None]:
    """The limit of the longer side at each shorter side of a multi-scale test, pixels; None sets no limit.

    Args:
        shorter_sides: of the test.
        longer_sides: their limits; None: in proportion to the training's two sides.
        shorter_side: of the training's images; None: their own.
        longer_side: the limit of the longer one; None: no limit.
    """
    if longer_sides is not None:
        return list(longer_sides)
    if shorter_side is None or longer_side is None:
        return [None] * len(shorter_sides)
    return [round(side * longer_side / shorter_side) for side in shorter_sides]
