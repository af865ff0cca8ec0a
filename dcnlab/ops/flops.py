"""Formulas for torch's FlopCounterMode: floating-point operations of the operators and of their gradients.

Two operations a multiply-add, as torch counts. Of a deformable convolution the products with the weight count, as of a
plain one, and not the bilinear sampling. RoI pooling is sampling alone: there each sample of each channel counts as
four multiply-adds, once in the forward pass and once for each gradient that is asked for. Where
`deform_roi_pool` takes as many samples as a bin is long (sampling_ratio 0), the count has one a bin, the fewest.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from math import prod
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"


def register_when_imported() -> None:
    """Register the formulas once torch.utils.flop_counter is imported, which takes longer than all of dcnlab.ops."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Registering())


class _Registering(MetaPathFinder):
    """Finds torch's counter as others would, and adds the formulas when it has been executed; then steps aside."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(counter: Any) -> None:
    formulas: dict[str, Callable[..., int]] = {
        "deform_conv2d": _deform_conv2d,
        "deform_conv2d_backward": _deform_conv2d_backward,
        "deform_ps_roi_pool": _deform_ps_roi_pool,
        "deform_ps_roi_pool_backward": _deform_ps_roi_pool_backward,
        "deform_roi_pool": _deform_roi_pool,
        "deform_roi_pool_backward": _deform_roi_pool_backward,
    }
    for name, formula in formulas.items():
        operator = getattr(torch.ops.dcnlab, name)
        if operator not in counter.flop_registry:
            counter.register_flop_formula(operator)(formula)


# Tensors arrive as their shapes, the result as `out_shape`.


def _deform_conv2d(input: Any, offset: Any, mask: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def _deform_conv2d_backward(
    grad: Any,
    input: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    needed: Sequence[bool],
    **kwargs: Any,
) -> int:
    # One product gives the columns' gradient, of which input's, offset's and mask's are made; another the weight's.
    return 2 * prod(grad) * prod(weight[1:]) * (any(needed[:3]) + needed[3])


def _deform_ps_roi_pool(
    input: Any,
    boxes: Any,
    offset: Any,
    output_size: int,
    spatial_scale: float,
    group_size: int,
    part_size: int,
    samples_per_bin: int,
    gamma: float,
    *,
    out_shape: Any,
    **kwargs: Any,
) -> int:
    return _samples(out_shape, samples_per_bin)


def _deform_ps_roi_pool_backward(
    grad: Any,
    input: Any,
    boxes: Any,
    offset: Any,
    output_size: int,
    spatial_scale: float,
    group_size: int,
    part_size: int,
    samples_per_bin: int,
    gamma: float,
    needed: Sequence[bool],
    **kwargs: Any,
) -> int:
    return _samples(grad, samples_per_bin) * sum(needed)


def _deform_roi_pool(
    input: Any,
    boxes: Any,
    offset: Any,
    output_size: Any,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    *,
    out_shape: Any,
    **kwargs: Any,
) -> int:
    return _samples(out_shape, sampling_ratio or 1)


def _deform_roi_pool_backward(
    grad: Any,
    input: Any,
    boxes: Any,
    offset: Any,
    output_size: Any,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    needed: Sequence[bool],
    **kwargs: Any,
) -> int:
    return _samples(grad, sampling_ratio or 1) * sum(needed)


def _samples(bins: Sequence[int], along_each_side: int) -> int:
    return 2 * 4 * prod(bins) * along_each_side**2
