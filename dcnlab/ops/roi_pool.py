"""Registers the RoI poolings with torch: schema, kernels, derivatives and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from dcnlab.ops import registry
from dcnlab.ops.pool_geometry import PoolArguments, PoolGradients


def register(
    name: str,
    sizes: str,
    arguments: Callable[..., PoolArguments],
    reference: Callable[..., Tensor],
    samples: Callable[[Any], int],
    example: Callable[[Callable[..., Tensor], int], tuple[Any, ...]],
) -> tuple[registry.Operator, Callable[[Any], Tensor]]:
    """Register a RoI pooling.

    Args:
        name: of the operator in the `dcnlab` library.
        sizes: the arguments after input, boxes and offset, as a schema.
        arguments: the record of all.
        reference: computes the operator in torch's own operators.
        samples: along each side of a bin, of the arguments.
        example: see `registry.Operator`.

    Returns:
        The operator, and the function of checked arguments with every derivative.
    """

    def flops(arguments: Any, output: Sequence[int]) -> int:
        """Four multiply-adds a sample and channel."""
        return 2 * 4 * prod(output) * samples(arguments) ** 2

    def backward_flops(arguments: Any, grad: Sequence[int], needed: PoolGradients[bool]) -> int:
        """As many for each gradient."""
        return flops(arguments, grad) * sum(needed)

    operator = registry.Operator(
        name=name,
        schema=f"Tensor input, Tensor boxes, Tensor? offset, {sizes}",
        arguments=arguments,
        gradients=PoolGradients,
        features=("input",),
        output_shape=_output_shape,
        reference=reference,
        flops=flops,
        backward_flops=backward_flops,
        example=example,
        kernels={"cpu": "dcnlab.ops.cpu.roi_pool", "cuda": "dcnlab.ops.cuda.roi_pool"},
    )
    return operator, registry.register(operator)


def _output_shape(arguments: PoolArguments) -> tuple[int, ...]:
    g = arguments.geometry
    return g.rois, g.channels, g.out_height, g.out_width


def example_boxes() -> Tensor:
    """Two boxes (2, 5) on two images, for a self-test."""
    return torch.tensor([[0, 1.3, 0.4, 9.2, 11.7], [1, 3.6, 2.9, 14.1, 7.3]], dtype=torch.float64)
