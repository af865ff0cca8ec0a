"""The three operators under one form, for tests that hold of each: cases, calls, and results by autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import conv_cases
import roi_cases
import torch
from tester import Results
from torch import Tensor

import dcnlab.ops

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Operator:
    """One operator, with cases of it."""

    name: str
    function: Callable[..., Tensor]
    cases: Any
    """The module with its `by_autograd` and `by_reference`."""
    options: dict[str, Any]
    """Of a case in which every argument takes part."""
    gradients: int
    """That the registered backward operator gives."""

    def case(self, dtype: torch.dtype, **changed: object) -> Any:
        """A small case of a dtype."""
        return self.cases.Case(**(self.options | {"dtype": dtype} | changed))

    def by_autograd(self, function: Callable[..., Tensor], case: Any) -> Results:
        """Output and gradients of a function with the operator's arguments."""
        found: Results = self.cases.by_autograd(function, case)
        return found

    def by_reference(self, case: Any) -> Results:
        """Output and gradients of the reference in float64."""
        found: Results = self.cases.by_reference(case)
        return found

    def registered(self, case: Any) -> list[Any]:
        """Arguments of the registered operator, in its order."""
        tensors, sizes = case.tensors(), {}
        if "boxes" in tensors:
            sizes = {name: list(v) if isinstance(v, tuple) else v for name, v in case.sizes().items()}
        else:
            sizes = {name: list(getattr(case, name)) for name in ("stride", "padding", "dilation")}
        schema = getattr(torch.ops.dcnlab, self.name).default._schema
        return [(tensors | sizes)[argument.name] for argument in schema.arguments]

    def of_tensors(self, case: Any) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """The operator as a function of its differentiable tensors alone, and those."""
        given = {name: tensor for name, tensor in case.tensors().items() if tensor is not None}
        boxes = given.pop("boxes", None)

        def call(*tensors: Tensor) -> Tensor:
            named = dict(zip(given, tensors, strict=True))
            if boxes is not None:
                return self.function(boxes=boxes, **named, **case.sizes())
            sizes = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
            return self.function(**named, **sizes)

        return call, list(given.values())


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator(
            "deform_conv2d",
            dcnlab.ops.deform_conv2d,
            conv_cases,
            {"modulated": True, "biased": True, "offset_groups": 2},
            5,
        ),
        Operator("deform_ps_roi_pool", dcnlab.ops.deform_ps_roi_pool, roi_cases, {"rule": "ps", "group": 2}, 2),
        Operator("deform_roi_pool", dcnlab.ops.deform_roi_pool, roi_cases, {"rule": "aligned"}, 2),
    )
}
