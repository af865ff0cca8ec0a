"""Multi-scale deformable attention: the public function, its arguments and checks, and its entry in the register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

from dcnlab.ops import reference, registry
from dcnlab.ops.checks import ArgumentError, check_tensors

Each = TypeVar("Each")


class AttentionArguments(NamedTuple):
    """The arguments of :func:`dcnlab.ops.ms_deform_attn`, in its order, which all layers have."""

    value: Tensor
    spatial_shapes: Tensor
    level_start_index: Tensor
    sampling_locations: Tensor
    attention_weights: Tensor
    normalized: bool


class AttentionGradients(NamedTuple, Generic[Each]):
    """Something for each argument of multi-scale deformable attention that has a gradient."""

    value: Each
    sampling_locations: Each
    attention_weights: Each


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    level_start_index: Tensor | Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    normalized: bool = True,
) -> Tensor:
    """Multi-scale deformable attention: weighted sums of bilinear samples of several maps (Zhu et al., 2021, eq. 3).

    Arguments, layout and results are those of Deformable DETR's, mmcv's and transformers' functions: the samples of
    `grid_sample(align_corners=False, padding_mode="zeros")`, times the weights, summed over levels and points. The
    projections before and after belong to :class:`dcnlab.nn.MSDeformAttn`. Weights are used as they are, without a
    softmax.

    A sample is read where its location, in pixels of its level, is more than -1 and less than the level's size; pixels
    off the level are zero. A location that is NaN, infinite or far away reads nothing and has no gradient. At a kink
    the gradient of a location is the right-hand derivative, and 0 at exactly -1.

    Equal calls give bitwise equal gradients, on a CPU with any number of threads. Second derivatives, forward mode and
    torch.func go through the reference implementation.

    With `normalized=False` locations are in pixels of their level, so that an operator whose samples lie on a grid
    of pixels need not divide by a size that is multiplied again. Fractions are the default, because the kernels
    make pixels of them by one multiplication and one subtraction, and no tensor of pixels is held in memory.

    Args:
        value: (N, S, M, D), float64, float32, float16 or bfloat16: for each image the pixels of all levels one after
            another, each level row by row; M heads of D channels.
        spatial_shapes: (L, 2) int64, height and width of each level, or a list of L pairs. On any device. The sum of
            height * width is S.
        level_start_index: (L,) int64, the first pixel of each level among the S, or a list. On any device.
        sampling_locations: (N, Q, M, L, P, 2), x before y, as fractions of the level's width and height: 0 and 1 are
            the outer edges of its first and last pixel. Any floating dtype: they are computed with in float32, or in
            float64 for a float64 value.
        attention_weights: (N, Q, M, L, P). Any floating dtype, likewise.
        normalized: False: the locations are in pixels, 0 being the middle of the first one.

    Returns:
        (N, Q, M * D), of value's dtype. Under autocast value is cast; locations and weights are not.

    Raises:
        ArgumentError: a ValueError and RuntimeError that names the argument that does not fit. The numbers in
            `spatial_shapes` and `level_start_index` are compared with S where they are on the CPU. On a GPU, which
            would have to be waited for, and in compiled graphs they are not; a level that does not lie within the S
            pixels reads nothing then.
        ImportError: a CUDA tensor, and CuPy is not installed.
    """
    tensors = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    if has_torch_function(tensors):
        return handle_torch_function(ms_deform_attn, tensors, *tensors, normalized)
    for name, tensor in (("sampling_locations", sampling_locations), ("attention_weights", attention_weights)):
        if tensor is None:
            raise ArgumentError(f"{name}: expected a tensor, got None")
    check_tensors(value=value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    shapes = _integers("spatial_shapes", spatial_shapes)
    starts = _integers("level_start_index", level_start_index)
    _check_shapes(value, shapes, starts, sampling_locations, attention_weights)
    if not isinstance(normalized, bool):
        raise ArgumentError(f"normalized: expected True or False, got {normalized!r}")
    _check_levels(value, shapes, starts)
    shapes, starts = _beside(shapes, value), _beside(starts, value)
    arguments = AttentionArguments(value, shapes, starts, sampling_locations, attention_weights, normalized)
    return _ms_deform_attn(_OPERATOR.cast(arguments))


def _integers(name: str, numbers: Any) -> Tensor:
    """An int64 tensor of an integer tensor or of nested lists.

    Raises:
        ArgumentError: something else.
    """
    if isinstance(numbers, (list, tuple)):
        try:
            numbers = torch.tensor(numbers)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(f"{name}: expected a tensor or a list of whole numbers, got {numbers!r}") from None
    if not isinstance(numbers, Tensor):
        raise ArgumentError(f"{name}: expected a tensor or a list, got {type(numbers).__name__}")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ArgumentError(f"{name}: expected dtype int64, got {numbers.dtype}")
    return numbers.long()


def _beside(numbers: Tensor, value: Tensor) -> Tensor:
    """The same on value's device; the copy of a few numbers is not waited for."""
    return numbers if numbers.device == value.device else numbers.to(value.device, non_blocking=True)


def _check_shapes(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> None:
    """Check the shapes of the tensors.

    Raises:
        ArgumentError: naming the argument, its shape and the one that fits.
    """
    if value.dim() != 4:
        raise ArgumentError(f"value: expected (N, S, M, D), got shape {tuple(value.shape)}")
    if locations.dim() != 6 or locations.shape[5] != 2:
        raise ArgumentError(f"sampling_locations: expected (N, Q, M, L, P, 2), got shape {tuple(locations.shape)}")
    (batch, _, heads, _), (_, queries, _, levels, points, _) = value.shape, locations.shape
    for name, tensor, shape in (
        ("sampling_locations", locations, (batch, queries, heads, levels, points, 2)),
        ("attention_weights", weights, (batch, queries, heads, levels, points)),
        ("spatial_shapes", shapes, (levels, 2)),
        ("level_start_index", starts, (levels,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ArgumentError(f"{name}: the shape of the {name} is {tuple(tensor.shape)}, expected {shape}")


def _check_levels(value: Tensor, shapes: Tensor, starts: Tensor) -> None:
    """Compare the levels' numbers with the number of pixels, where nobody has to be waited for.

    Raises:
        ArgumentError: a size below 1, another number of pixels than value has, or other first pixels.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(value) not in (Tensor, Parameter):
        return
    if any(type(t) is not Tensor or t.device.type != "cpu" for t in (shapes, starts)):
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(shapes) or torch._C._functorch.is_functorch_wrapped_tensor(
        starts
    ):
        return
    sizes, given, first, expected = shapes.tolist(), starts.tolist(), 0, []
    for height, width in sizes:
        if min(height, width) < 1:
            raise ArgumentError(f"spatial_shapes: a level of {height}x{width} has no pixel")
        expected.append(first)
        first += height * width
    if first != value.shape[1]:
        raise ArgumentError(f"spatial_shapes: levels {sizes} have {first} pixels, but value has {value.shape[1]}")
    if given != expected:
        raise ArgumentError(f"level_start_index: expected {expected} for levels {sizes}, got {given}")


def _output_shape(arguments: AttentionArguments) -> tuple[int, ...]:
    batch, _, heads, channels = arguments.value.shape
    return batch, arguments.sampling_locations.shape[1], heads * channels


def _flops(arguments: Any, output: Sequence[int]) -> int:
    """Four multiply-adds a sample and channel; `arguments` has shapes in the place of tensors."""
    levels, points = arguments.sampling_locations[3:5]
    return 2 * 4 * prod(output) * int(levels * points)


def _backward_flops(arguments: Any, grad: Sequence[int], needed: AttentionGradients[bool]) -> int:
    """As many for each gradient."""
    return _flops(arguments, grad) * sum(needed)


def _example(random: Callable[..., Tensor], channels: int) -> AttentionArguments:
    """Two heads, five queries, three points on each of two levels; some locations are off the map."""
    shapes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    locations = random(2, 5, 2, 2, 3, 2, coordinates=True) * 0.4 + 0.5
    weights = random(2, 5, 2, 2, 3, coordinates=True)
    return AttentionArguments(random(2, 26, 2, channels), shapes, starts, locations, weights, True)


_OPERATOR = registry.Operator(
    name="ms_deform_attn",
    schema=(
        "Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
        "Tensor attention_weights, bool normalized"
    ),
    arguments=AttentionArguments,
    gradients=AttentionGradients,
    features=("value",),
    output_shape=_output_shape,
    reference=reference.ms_deform_attn,
    flops=_flops,
    backward_flops=_backward_flops,
    example=_example,
    kernels={"cpu": "dcnlab.ops.cpu.ms_deform_attn", "cuda": "dcnlab.ops.cuda.ms_deform_attn"},
    reads_maps=False,
)
_ms_deform_attn = registry.register(_OPERATOR)
