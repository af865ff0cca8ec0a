"""The operators under one form, for tests that hold of each: cases, calls, and results by autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import attn_cases
import conv_cases
import roi_cases
import torch
from tester import Results
from torch import Tensor

import dcnlab.ops
from dcnlab.ops import registry

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

    @property
    def features(self) -> str:
        """The name of the first argument, which gives device and dtype."""
        return registry.OPERATORS[self.name].fields[0]

    @property
    def reads_maps(self) -> bool:
        """Whether the features are maps (N, C, H, W), so that results have their memory format."""
        return registry.OPERATORS[self.name].reads_maps

    @property
    def leaves(self) -> tuple[int, ...]:
        """Positions of the registered operator's arguments that have a gradient."""
        return registry.OPERATORS[self.name].differentiable

    def sizes(self, case: Any) -> dict[str, Any]:
        """Arguments by name after the tensors."""
        if self.name == "deform_conv2d":
            return {name: getattr(case, name) for name in ("stride", "padding", "dilation")}
        return {"normalized": case.normalized} if self.name == "ms_deform_attn" else case.sizes()

    def registered(self, case: Any) -> list[Any]:
        """Arguments of the registered operator, in its order."""
        sizes = {name: list(v) if isinstance(v, tuple) else v for name, v in self.sizes(case).items()}
        schema = getattr(torch.ops.dcnlab, self.name).default._schema
        return [(case.tensors() | sizes)[argument.name] for argument in schema.arguments]

    def of_tensors(self, case: Any) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """The operator as a function of its differentiable tensors alone, and those."""
        given = {name: tensor for name, tensor in case.tensors().items() if tensor is not None}
        fields = registry.OPERATORS[self.name].fields
        names = [name for name in given if fields.index(name) in self.leaves]
        others = {name: tensor for name, tensor in given.items() if name not in names} | self.sizes(case)

        def call(*tensors: Tensor) -> Tensor:
            return self.function(**dict(zip(names, tensors, strict=True)), **others)

        return call, [given[name] for name in names]


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
        Operator("ms_deform_attn", dcnlab.ops.ms_deform_attn, attn_cases, {}, 3),
    )
}
