"""Deformable position-sensitive RoI pooling: the public function, and its entry in the register."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import reference, roi_pool
from dcnlab.ops.checks import ArgumentError, check_tensors
from dcnlab.ops.pool_checks import boxes_R5, check_count, check_groups, check_map, check_number, check_offset
from dcnlab.ops.pool_geometry import PSRoIPoolArguments


def deform_ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    offset: Tensor | None = None,
    output_size: int | tuple[int, int] = 7,
    spatial_scale: float = 1.0,
    group_size: int = 1,
    part_size: int | None = None,
    samples_per_bin: int = 4,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable position-sensitive RoI pooling; with group_size 1, deformable RoI pooling on plain features.

    A box is cut into output_size x output_size bins; each is moved by its offset times gamma times the box's size,
    and is the mean of samples_per_bin x samples_per_bin bilinear readings (Dai et al. 2017, section 2.2).

    Results are those of the authors' kernel: corners are rounded to whole image pixels, halves away from zero, and the
    last pixel counts as part of the box; a box is at least 0.1 pixel of the map wide and high; samples start at a bin's
    top left corner; those outside the map by more than half a pixel are left out of the mean. The gradient of an offset
    is the authors' too, which at a sample that lies exactly on an integer is 0 for that axis.

    A box whose image number is not one of 0 to N - 1, and a box or offset that is NaN or infinite, pools zero. Boxes
    get no gradient. Equal calls give bitwise equal gradients.

    Second derivatives, forward mode and torch.func go through the reference implementation.

    Args:
        input: (N, channels * group_size^2, H, W), float64, float32, float16 or bfloat16, in any layout; channel
            (k * group_size + i) * group_size + j is read for output channel k in the bins of group cell (i, j).
        boxes: (R, 5): image number, x1, y1, x2, y2 in pixels of the image; or a list with (L, 4) for each image. Any
            floating dtype: sampling locations are computed in float32, or in float64 for a float64 input.
        offset: (R, 2 * classes, part_size, part_size), x before y, as a fraction of the box's width and height before
            gamma; output channels are cut into `classes` equal runs. Any floating dtype. None: no offsets.
        output_size: bins along each side; an int, or a pair of equal ones.
        spatial_scale: pixels of the map per pixel of the image.
        group_size: group cells along each side of a box.
        part_size: offset cells along each side of a box; None: one for each bin.
        samples_per_bin: along each side of a bin.
        gamma: factor of the offsets.

    Returns:
        (R, channels, output_size, output_size), of the input's dtype and in its memory format. Under autocast the
        input is cast; boxes and offset are not.

    Raises:
        ArgumentError: a ValueError and RuntimeError that names the argument that does not fit.
        ImportError: a CUDA tensor, and CuPy is not installed.
    """
    tensors = (input, *(boxes if isinstance(boxes, (list, tuple)) else (boxes,)), offset)
    if has_torch_function(tensors):
        return handle_torch_function(
            deform_ps_roi_pool,
            tensors,
            input,
            boxes,
            offset,
            output_size,
            spatial_scale,
            group_size,
            part_size,
            samples_per_bin,
            gamma,
        )
    if isinstance(output_size, (list, tuple)):
        if len(output_size) != 2 or output_size[0] != output_size[1]:
            raise ArgumentError(f"output_size: expected an int or a pair of equal ints, got {output_size!r}")
        output_size = output_size[0]
    part_size = output_size if part_size is None else part_size
    counts = {"output_size": output_size, "group_size": group_size, "part_size": part_size}
    for name, count in (counts | {"samples_per_bin": samples_per_bin}).items():
        check_count(name, count, 1)
    check_number("spatial_scale", spatial_scale)
    check_number("gamma", gamma)
    check_tensors(input=input, offset=offset)
    check_map(input)
    rois = boxes_R5(boxes, input)
    check_groups(input, offset, group_size)
    if offset is not None:
        check_offset(offset, (rois.shape[0], offset.shape[1], part_size, part_size))
    sizes = (output_size, float(spatial_scale), group_size, part_size, samples_per_bin, float(gamma))
    return _deform_ps_roi_pool(_OPERATOR.cast(PSRoIPoolArguments(input, rois, offset, *sizes)))


def _samples(arguments: PSRoIPoolArguments) -> int:
    return arguments.samples_per_bin


def _example(random: Callable[..., Tensor], channels: int) -> PSRoIPoolArguments:
    input, boxes, offset = random(2, 4 * channels, 7, 6), roi_pool.example_boxes(), random(2, 2, 2, 2, coordinates=True)
    return PSRoIPoolArguments(input, boxes, offset, 2, 0.37, 2, 2, 4, 0.1)


_OPERATOR, _deform_ps_roi_pool = roi_pool.register(
    name="deform_ps_roi_pool",
    sizes="int output_size, float spatial_scale, int group_size, int part_size, int samples_per_bin, float gamma",
    arguments=PSRoIPoolArguments,
    reference=reference.deform_ps_roi_pool,
    samples=_samples,
    example=_example,
)
