"""RoIAlign-style deformable RoI pooling: the public function, its gradient, and its registration with torch.

Registered as :mod:`dcnlab.ops.deform_conv2d` is: two torch.library operators, a torch.autograd.Function around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import autocast, autograd, reference
from dcnlab.ops.checks import check_tensors, pair
from dcnlab.ops.pool_checks import boxes_R5, check_count, check_map, check_number, check_offset
from dcnlab.ops.pool_geometry import PoolGeometry

_Sizes = tuple[tuple[int, int], float, int, float]

_ARGUMENTS = (
    "Tensor input, Tensor boxes, Tensor? offset, int[2] output_size, float spatial_scale, int sampling_ratio, "
    "float gamma"
)
torch.library.define("dcnlab::deform_roi_pool", f"({_ARGUMENTS}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
torch.library.define(
    "dcnlab::deform_roi_pool_backward",
    f"(Tensor grad, {_ARGUMENTS}, bool[2] needed) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def deform_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    offset: Tensor | None = None,
    output_size: int | tuple[int, int] = 7,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """RoIAlign whose bins are shifted by offsets: the deformable RoI pooling that mmcv ships.

    Without offsets it equals `torchvision.ops.roi_align(..., aligned=True)`. With them, each bin moves by its offset
    times gamma times the box's size, and the forward equals mmcv's.

    The gradient of the offsets is the true derivative, where mmcv's backward departs from it: mmcv weights the slope by
    the distance to pixels before it clamps the place to the map. So a sample in the last half row or column (a place of
    at least H - 1 or W - 1) loses the gradient of the other axis, and one before the first (a place below 0) gets a
    slope where its value is constant, and an extrapolated one on the other axis. Here a place that is clamped has slope
    0 on that axis and the right slope on the other; at a kink, the right-hand derivative counts.

    A box whose image number is not one of 0 to N - 1, and a box or offset that is NaN or infinite, pools zero; with
    sampling_ratio 0 so does an empty or reversed box, and one of more than 2^20 samples along a side of a bin. Boxes
    get no gradient. Equal calls give bitwise equal gradients. Second derivatives go through the reference.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16, in any layout. Channels-last saves a copy.
        boxes: (R, 5): image number, x1, y1, x2, y2 in pixels of the image, not rounded; or a list with (L, 4) for each
            image. Any floating dtype: places are computed in float32, or in float64 for a float64 input.
        offset: (R, 2, h, w), x before y, as a share of the box's width and height before gamma. Any floating dtype.
            None: no shifts.
        output_size: bins along each side, int or (h, w).
        spatial_scale: pixels of the map per pixel of the image.
        sampling_ratio: samples along each side of a bin; 0: as many as the bin is pixels of the map long.
        gamma: factor of the offsets.

    Returns:
        (R, C, h, w), of the input's dtype, channels-last in memory. Under autocast the input is cast; boxes and offset
        are not.

    Raises:
        ArgumentError: a ValueError and RuntimeError that names the argument that does not fit.
        ImportError: a CUDA tensor, and CuPy is not installed.
    """
    tensors = (input, *(boxes if isinstance(boxes, (list, tuple)) else (boxes,)), offset)
    if has_torch_function(tensors):
        return handle_torch_function(
            deform_roi_pool, tensors, input, boxes, offset, output_size, spatial_scale, sampling_ratio, gamma
        )
    out_size = pair("output_size", output_size, 1)
    check_count("sampling_ratio", sampling_ratio, 0)
    check_number("spatial_scale", spatial_scale)
    check_number("gamma", gamma)
    check_tensors(input=input, offset=offset)
    check_map(input)
    real = torch.float64 if input.dtype == torch.float64 else torch.float32
    boxes = boxes_R5(boxes, input, real)
    check_offset(offset, (boxes.shape[0], 2, *out_size))
    offset = None if offset is None else offset.to(real)
    input = autocast.cast(input.device.type, input)
    sizes = (out_size, float(spatial_scale), sampling_ratio, float(gamma))
    wants_grad = input.requires_grad or (offset is not None and offset.requires_grad)
    if wants_grad and torch.is_grad_enabled():
        output: Tensor = _DeformRoIPool.apply(input, boxes, offset, sizes)
        return output
    return torch.ops.dcnlab.deform_roi_pool(input, boxes, offset, *sizes)


class _DeformRoIPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, boxes: Tensor, offset: Tensor | None, sizes: _Sizes) -> Tensor:
        ctx.save_for_backward(input, boxes, offset)
        ctx.sizes = sizes
        return torch.ops.dcnlab.deform_roi_pool(input, boxes, offset, *sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, boxes, offset = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Gradients that can be differentiated again, for create_graph=True.
            output = reference.deform_roi_pool(input, boxes, offset, *ctx.sizes)
            wanted = [t for t, need in zip((input, offset), needed, strict=True) if need]
            found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True, materialize_grads=True))
            grads = [next(found) if need else None for need in needed]
        else:
            both = torch.ops.dcnlab.deform_roi_pool_backward(grad, input, boxes, offset, *ctx.sizes, needed)
            grads = [g if need else None for g, need in zip(both, needed, strict=True)]
        return grads[0], None, grads[1], None


autograd.register(
    "deform_roi_pool", lambda input, boxes, offset, *sizes: _DeformRoIPool.apply(input, boxes, offset, sizes)
)
autograd.register("deform_roi_pool_backward", None)


@torch.library.register_fake("dcnlab::deform_roi_pool")
def _fake(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    return input.new_empty(boxes.shape[0], *output_size, input.shape[1]).permute(0, 3, 1, 2)


@torch.library.register_fake("dcnlab::deform_roi_pool_backward")
def _fake_backward(
    grad: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = input.shape
    return (
        input.new_empty(batch, height, width, channels).permute(0, 3, 1, 2) if needed[0] else input.new_empty(0),
        offset.new_empty(offset.shape) if needed[1] and offset is not None else input.new_empty(0),
    )


@torch.library.impl("dcnlab::deform_roi_pool", ("cpu", "cuda"))
def _forward(input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes: Any) -> Tensor:
    return _path(input).forward(input, boxes, offset, PoolGeometry.of_roi_pool(input, boxes, *sizes))


@torch.library.impl("dcnlab::deform_roi_pool_backward", ("cpu", "cuda"))
def _backward(
    grad: Tensor, input: Tensor, boxes: Tensor, offset: Tensor | None, *sizes_needed: Any
) -> tuple[Tensor, Tensor]:
    *sizes, needed = sizes_needed
    return _path(input).backward(grad, input, boxes, offset, PoolGeometry.of_roi_pool(input, boxes, *sizes), needed)


def _path(input: Tensor) -> Any:
    """The module that computes on the tensor's device, imported on first use: numba and CuPy are slow to load."""
    if input.is_cuda:
        from dcnlab.ops.cuda import roi_pool as cuda

        return cuda
    from dcnlab.ops.cpu import roi_pool as cpu

    return cpu
