"""Deformable position-sensitive RoI pooling: the public function, its gradient, and its registration with torch.

Registered as :mod:`dcnlab.ops.deform_conv2d` is: two torch.library operators, a torch.autograd.Function around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import autocast, autograd, reference
from dcnlab.ops.checks import ArgumentError, check_tensors
from dcnlab.ops.pool_checks import boxes_R5, check_count, check_groups, check_map, check_number, check_offset
from dcnlab.ops.pool_geometry import PoolGeometry

_Sizes = tuple[int, float, int, int, int, float]

_ARGUMENTS = (
    "Tensor input, Tensor boxes, Tensor? offset, int output_size, float spatial_scale, int group_size, int part_size, "
    "int samples_per_bin, float gamma"
)
torch.library.define("dcnlab::deform_ps_roi_pool", f"({_ARGUMENTS}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
torch.library.define(
    "dcnlab::deform_ps_roi_pool_backward",
    f"(Tensor grad, {_ARGUMENTS}, bool[2] needed) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


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

    A box is cut into output_size x output_size bins; each is shifted by its offset times gamma times the box's size,
    and is the mean of samples_per_bin x samples_per_bin bilinear readings (Dai et al. 2017, section 2.2).

    Results are those of the authors' kernel: corners are rounded to whole image pixels, halves away from zero, and the
    last pixel counts as part of the box; a box is at least 0.1 pixel of the map wide and high; samples start at a bin's
    top left corner; those outside the map by more than half a pixel are left out of the mean. The gradient of an offset
    is the authors' too, which at a sample that lies exactly on an integer is 0 for that axis.

    A box whose image number is not one of 0 to N - 1, and a box or offset that is NaN or infinite, pools zero. Boxes
    get no gradient. Equal calls give bitwise equal gradients. Second derivatives go through the reference.

    Args:
        input: (N, channels * group_size^2, H, W), float64, float32, float16 or bfloat16, in any layout; channel
            (k * group_size + i) * group_size + j is read for output channel k in the bins of group cell (i, j).
        boxes: (R, 5): image number, x1, y1, x2, y2 in pixels of the image; or a list with (L, 4) for each image. Any
            floating dtype: places are computed in float32, or in float64 for a float64 input.
        offset: (R, 2 * classes, part_size, part_size), x before y, as a share of the box's width and height before
            gamma; output channels are cut into `classes` equal runs. Any floating dtype. None: no shifts.
        output_size: bins along each side; an int, or a pair of equal ones.
        spatial_scale: pixels of the map per pixel of the image.
        group_size: group cells along each side of a box.
        part_size: offset cells along each side of a box; None: one for each bin.
        samples_per_bin: along each side of a bin.
        gamma: factor of the offsets.

    Returns:
        (R, channels, output_size, output_size), of the input's dtype, channels-last in memory. Under autocast the input
        is cast; boxes and offset are not.

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
    real = torch.float64 if input.dtype == torch.float64 else torch.float32
    boxes = boxes_R5(boxes, input, real)
    check_groups(input, offset, group_size)
    if offset is not None:
        check_offset(offset, (boxes.shape[0], offset.shape[1], part_size, part_size))
        offset = offset.to(real)
    input = autocast.cast(input.device.type, input)
    sizes = (output_size, float(spatial_scale), group_size, part_size, samples_per_bin, float(gamma))
    wants_grad = input.requires_grad or (offset is not None and offset.requires_grad)
    if wants_grad and torch.is_grad_enabled():
        output: Tensor = _DeformPSRoIPool.apply(input, boxes, offset, sizes)
        return output
    return torch.ops.dcnlab.deform_ps_roi_pool(input, boxes, offset, *sizes)


class _DeformPSRoIPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, boxes: Tensor, offset: Tensor | None, sizes: _Sizes) -> Tensor:
        ctx.save_for_backward(input, boxes, offset)
        ctx.sizes = sizes
        return torch.ops.dcnlab.deform_ps_roi_pool(input, boxes, offset, *sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, boxes, offset = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Gradients that can be differentiated again, for create_graph=True.
            output = reference.deform_ps_roi_pool(input, boxes, offset, *ctx.sizes)
            wanted = [t for t, need in zip((input, offset), needed, strict=True) if need]
            found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True, materialize_grads=True))
            grads = [next(found) if need else None for need in needed]
        else:
            both = torch.ops.dcnlab.deform_ps_roi_pool_backward(grad, input, boxes, offset, *ctx.sizes, needed)
            grads = [g if need else None for g, need in zip(both, needed, strict=True)]
        return grads[0], None, grads[1], None


autograd.register(
    "deform_ps_roi_pool", lambda input, boxes, offset, *sizes: _DeformPSRoIPool.apply(input, boxes, offset, sizes)
)
autograd.register("deform_ps_roi_pool_backward", None)


@torch.library.register_fake("dcnlab::deform_ps_roi_pool")
def _fake(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    output_size: int,
    spatial_scale: float,
    group_size: int,
    part_size: int,
    samples_per_bin: int,
    gamma: float,
) -> Tensor:
    channels = input.shape[1] // group_size**2
    return input.new_empty(boxes.shape[0], output_size, output_size, channels).permute(0, 3, 1, 2)


@torch.library.register_fake("dcnlab::deform_ps_roi_pool_backward")
def _fake_backward(
    grad: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    output_size: int,
    spatial_scale: float,
    group_size: int,
    part_size: int,
    samples_per_bin: int,
    gamma: float,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = input.shape
    grad_input = input.new_empty(0)
    if needed[0] and group_size == 1:
        grad_input = input.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
    elif needed[0]:
        grad_input = input.new_empty(batch, channels, height, width)
    return (
        grad_input,
        offset.new_empty(offset.shape) if needed[1] and offset is not None else input.new_empty(0),
    )


@torch.library.impl("dcnlab::deform_ps_roi_pool", ("cpu", "cuda"))
def _forward(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
    return _path(input).forward(input, boxes, offset, PoolGeometry.of_ps_roi_pool(input, boxes, offset, *sizes))


@torch.library.impl("dcnlab::deform_ps_roi_pool_backward", ("cpu", "cuda"))
def _backward(
    grad: Tensor, input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes_needed: Any
) -> tuple[Tensor, Tensor]:
    *sizes, needed = sizes_needed
    geometry = PoolGeometry.of_ps_roi_pool(input, boxes, offset, *sizes)
    return _path(input).backward(grad, input, boxes, offset, geometry, needed)


def _path(input: Tensor) -> Any:
    """The module that computes on the tensor's device, imported on first use: numba and CuPy are slow to load."""
    if input.is_cuda:
        from dcnlab.ops.cuda import roi_pool as cuda

        return cuda
    from dcnlab.ops.cpu import roi_pool as cpu

    return cpu
