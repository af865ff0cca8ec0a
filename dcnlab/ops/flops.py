"""Formulas for torch's FlopCounterMode: floating-point operations of the operators and of their gradients.

Two operations a multiply-add, as torch counts. Of a deformable convolution the products with the weight count, as of a
plain one, and not the bilinear sampling. RoI pooling and multi-scale deformable attention are sampling alone: there
each sample of each channel counts as four multiply-adds, once in the forward pass and once for each gradient that is
asked for. Where `deform_roi_pool` takes as many samples as a bin is long (sampling_ratio 0), the count has one a bin,
the fewest.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from dcnlab.ops.registry import OPERATORS, Operator

_COUNTER = "torch.utils.flop_counter"


def register_when_imported() -> None:
    """Register the formulas once torch.utils.flop_counter is imported, which takes longer than all of dcnlab.ops."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Registering())


class _Registering(MetaPathFinder):
    """Import hook that adds the formulas once torch's counter has been executed, then removes itself."""

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
    for name, operator in OPERATORS.items():
        _add(counter, name, partial(_forward, operator))
        _add(counter, f"{name}_backward", partial(_backward, operator))


def _add(counter: Any, name: str, formula: Callable[..., int]) -> None:
    operator = getattr(torch.ops.dcnlab, name)
    if operator not in counter.flop_registry:
        counter.register_flop_formula(operator)(formula)


# Tensors arrive as their shapes, the result as `out_shape`.


def _forward(operator: Operator, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return operator.flops(operator.arguments(*args, **kwargs), out_shape)


def _backward(operator: Operator, grad: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    *given, needed = args
    return operator.backward_flops(operator.arguments(*given), grad, operator.gradients(*needed))
