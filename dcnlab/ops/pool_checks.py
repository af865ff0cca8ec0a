"""Checks of the RoI poolings' arguments; each error is one line that starts with the argument's name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dcnlab.ops.checks import ArgumentError, check_tensors
from dcnlab.ops.pool_geometry import MAX_SAMPLES


def boxes_R5(boxes: Tensor | Sequence[Tensor], input: Tensor) -> Tensor:
    """Make (R, 5) of boxes as torchvision takes them: image number, x1, y1, x2, y2.

    Args:
        boxes: (R, 5), or a list with (L, 4) for each image.
        input: (N, C, H, W), checked.

    Raises:
        ArgumentError: another shape or dtype, or not one tensor for each image.
    """
    if isinstance(boxes, Tensor):
        check_tensors(input=input, boxes=boxes)
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise ArgumentError(
                f"boxes: expected (R, 5) with the image's number first, or a list of (L, 4), got {tuple(boxes.shape)}"
            )
        return boxes.detach()
    if not isinstance(boxes, (list, tuple)):
        raise ArgumentError(f"boxes: expected a tensor or a list of tensors, got {type(boxes).__name__}")
    if len(boxes) != input.shape[0]:
        raise ArgumentError(f"boxes: a list of {len(boxes)} tensors for an input of {input.shape[0]} images")
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    rows = [input.new_empty((0, 5), dtype=dtype)]
    for number, part in enumerate(boxes):
        check_tensors(input=input, **{f"boxes[{number}]": part})
        if part.dim() != 2 or part.shape[1] != 4:
            raise ArgumentError(f"boxes[{number}]: expected (L, 4), got {tuple(part.shape)}")
        part = part.detach().to(dtype)
        rows.append(torch.cat((part.new_full((part.shape[0], 1), number), part), 1))
    return torch.cat(rows)


def check_map(input: Tensor) -> None:
    """Check that there is a map to read; it is a tensor that has passed `check_tensors`.

    Raises:
        ArgumentError: not four dimensions, or no pixel or channel.
    """
    if input.dim() != 4:
        raise ArgumentError(f"input: expected 4 dimensions, got shape {tuple(input.shape)}")
    if min(input.shape[1:]) == 0:
        raise ArgumentError(f"input: shape {tuple(input.shape)} has no pixel or no channel")


def check_count(name: str, value: int, least: int) -> None:
    """Check a number of bins or samples.

    Raises:
        ArgumentError: no int, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"{name}: expected an int, got {value!r}")
    if not least <= value <= MAX_SAMPLES:
        raise ArgumentError(f"{name}: must be {least} to {MAX_SAMPLES}, got {value}")


def check_number(name: str, value: float) -> None:
    """Check a factor.

    Raises:
        ArgumentError: not a finite number.
    """
    # Compared, not asked `math.isfinite`, which torch.compile cannot trace for sizes that may change.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        raise ArgumentError(f"{name}: expected a finite number, got {value!r}")


def check_groups(input: Tensor, offset: Tensor | None, group_size: int) -> None:
    """Check that the input's channels can be cut into group cells, and those into the offset's classes.

    Raises:
        ArgumentError: naming the argument, its value and what would fit.
    """
    channels = input.shape[1]
    if channels % group_size**2:
        raise ArgumentError(
            f"input: {channels} channels cannot be cut into {group_size}x{group_size} group cells (group_size)"
        )
    if offset is None:
        return
    out_channels, classes = channels // group_size**2, offset.shape[1] // 2 if offset.dim() > 1 else 0
    if offset.dim() != 4 or classes == 0 or offset.shape[1] % 2 or out_channels % classes:
        raise ArgumentError(
            f"offset: the shape of the offset is {tuple(offset.shape)}; expected (R, 2 * classes, part, part) with "
            f"classes dividing the {out_channels} output channels"
        )


def check_offset(offset: Tensor | None, shape: tuple[int, ...]) -> None:
    """Check the shape of offsets.

    Raises:
        ArgumentError: it is another.
    """
    if offset is not None and tuple(offset.shape) != shape:
        raise ArgumentError(f"offset: the shape of the offset is {tuple(offset.shape)}, expected {shape}")
