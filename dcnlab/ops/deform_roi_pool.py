"""RoIAlign-style deformable RoI pooling: the public function, and its entry in the register."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import reference, roi_pool
from dcnlab.ops.checks import check_tensors, pair
from dcnlab.ops.pool_checks import boxes_R5, check_count, check_map, check_number, check_offset
from dcnlab.ops.pool_geometry import RoIPoolArguments


def deform_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    offset: Tensor | None = None,
    output_size: int | tuple[int, int] = 7,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """RoIAlign whose bins are moved by offsets: the deformable RoI pooling that mmcv ships.

    Without offsets it equals `torchvision.ops.roi_align(..., aligned=True)`. With them, each bin moves by its offset
    times gamma times the box's size, and the forward equals mmcv's.

    The gradient of the offsets is the true derivative, where mmcv's backward departs from it: mmcv weights the slope by
    the distance to pixels before it clamps the sampling location to the map. So a sample in the last half row or column
    (at H - 1 or W - 1, or beyond) loses the gradient of the other axis, and one before the first (below 0) gets a slope
    where its value is constant, and an extrapolated one on the other axis. Here a location that is clamped has slope
    0 on that axis and the right slope on the other; at a kink, the right-hand derivative counts.

    A box whose image number is not one of 0 to N - 1, and a box or offset that is NaN or infinite, pools zero; with
    sampling_ratio 0 so does an empty or reversed box, and one of more than 2^20 samples along a side of a bin. Boxes
    get no gradient. Equal calls give bitwise equal gradients.

    Second derivatives, forward mode and torch.func go through the reference implementation.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16, in any layout. Channels-last saves a copy.
        boxes: (R, 5): image number, x1, y1, x2, y2 in pixels of the image, not rounded; or a list with (L, 4) for each
            image. Any floating dtype: sampling locations are computed in float32, or in float64 for a float64 input.
        offset: (R, 2, h, w), x before y, as a fraction of the box's width and height before gamma. Any floating dtype.
            None: no offsets.
        output_size: bins along each side, int or (h, w).
        spatial_scale: pixels of the map per pixel of the image.
        sampling_ratio: samples along each side of a bin; 0: as many as the bin is pixels of the map long.
        gamma: factor of the offsets.

    Returns:
        (R, C, h, w), of the input's dtype and in its memory format. Under autocast the
        input is cast; boxes and offset are not.

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
    rois = boxes_R5(boxes, input)
    check_offset(offset, (rois.shape[0], 2, *out_size))
    sizes = (out_size, float(spatial_scale), sampling_ratio, float(gamma))
    return _deform_roi_pool(_OPERATOR.cast(RoIPoolArguments(input, rois, offset, *sizes)))


def _samples(arguments: RoIPoolArguments) -> int:
    """Along each side of a bin: the fewest, where there are as many as the bin is long."""
    return arguments.sampling_ratio or 1


def _example(random: Callable[..., Tensor], channels: int) -> RoIPoolArguments:
    input, boxes, offset = random(2, channels, 7, 6), roi_pool.example_boxes(), random(2, 2, 2, 2, coordinates=True)
    return RoIPoolArguments(input, boxes, offset, (2, 2), 0.37, 0, 0.1)


_OPERATOR, _deform_roi_pool = roi_pool.register(
    name="deform_roi_pool",
    sizes="int[2] output_size, float spatial_scale, int sampling_ratio, float gamma",
    arguments=RoIPoolArguments,
    reference=reference.deform_roi_pool,
    samples=_samples,
    example=_example,
)
