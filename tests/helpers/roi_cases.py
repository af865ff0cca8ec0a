"""Configurations of both RoI poolings, the paths that compute them, and how near they must come to each other."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tester import Results
from torch import Tensor

import dcnlab.ops
from dcnlab.ops import reference
from dcnlab.ops.cuda import roi_pool as cuda
from dcnlab.ops.cuda.launch import ModuleFactory
from dcnlab.ops.pool_geometry import PoolArguments, PoolGradients, PSRoIPoolArguments, RoIPoolArguments

NAMES = ("input", "boxes", "offset")
RULES = ("ps", "aligned")
"""deform_ps_roi_pool and deform_roi_pool."""


@dataclass
class Case:
    """One configuration; tensors are drawn from its seed, and printing it is enough to run it again."""

    rule: str = "ps"
    batch: int = 2
    channels: int = 4
    """Of the output; the input has group^2 times as many."""
    height: int = 7
    width: int = 9
    rois: int = 5
    out_size: tuple[int, int] = (3, 3)
    group: int = 1
    part: int = 3
    classes: int = 1
    samples: int = 2
    scale: float = 0.2371
    """No short binary fraction, so that no sample lies on a kink, where a rounding error decides."""
    gamma: float = 0.1
    shifted: bool = True
    reach: float = 1.0
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64)

    @property
    def real(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def offset_shape(self) -> tuple[int, ...]:
        if self.rule == "ps":
            return self.rois, 2 * self.classes, self.part, self.part
        return self.rois, 2, *self.out_size

    def sizes(self) -> dict[str, object]:
        """Arguments by name after the tensors."""
        common: dict[str, object] = {"spatial_scale": self.scale, "gamma": self.gamma}
        if self.rule == "aligned":
            return common | {"output_size": self.out_size, "sampling_ratio": self.samples}
        own = {"output_size": self.out_size[0], "group_size": self.group, "part_size": self.part}
        return common | own | {"samples_per_bin": self.samples}

    def tensors(self) -> dict[str, Tensor | None]:
        """input, boxes, offset. Boxes lie inside, across the border, outside; some are reversed, some of no image."""
        g = torch.Generator().manual_seed(self.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64)

        extent = torch.tensor([self.width, self.height], dtype=torch.float64) / self.scale
        centre, size = (uniform(self.rois, 2) * 1.4 - 0.2) * extent, (uniform(self.rois, 2) ** 2 * 1.5 - 0.1) * extent
        image = (uniform(self.rois, 1) * (self.batch + 0.5) - 0.25).floor()  # -1 and batch now and then
        boxes = torch.cat((image, centre - size / 2, centre + size / 2), 1)
        boxes[1::3, 1:] = (boxes[1::3, 1:] * 2).round() / 2  # halves, which rule A rounds away from zero
        if self.rule == "ps" and not self.shifted:
            self._avoid_the_border(boxes)
        channels = self.channels * self.group**2
        input = torch.randn(self.batch, channels, self.height, self.width, generator=g, dtype=torch.float64)
        offset = torch.randn(self.offset_shape(), generator=g, dtype=torch.float64) * self.reach
        return {
            "input": input.to(self.dtype),
            "boxes": boxes.to(self.real),
            "offset": offset.to(self.real) if self.shifted else None,
        }

    def _avoid_the_border(self, boxes: Tensor) -> None:
        """Lengthen boxes of which a sample would lie on -0.5 exactly, where a rounding error decides."""
        for box in boxes:
            for first, last in ((1, 3), (2, 4)):
                start, end = (math.floor(abs(v) + 0.5) * math.copysign(1, v) for v in box[[first, last]].tolist())
                while start < 0 < end + 1 and (self.out_size[0] * self.samples * start) % (end + 1 - start) == 0:
                    end += 1
                    box[last] = end

    def grad(self) -> Tensor:
        g = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(self.rois, self.channels, *self.out_size, generator=g, dtype=torch.float64).to(self.dtype)


def random_case(seed: int, rule: str, **fixed: object) -> Case:
    """Draw a configuration over everything the operator takes, small enough for the reference."""
    r = random.Random(seed)
    classes = r.choice([1, 1, 2, 3])
    side = r.choice([1, 2, 3, 4, 7])
    values = {
        "rule": rule,
        "batch": r.choice([1, 1, 2, 3]),
        "channels": classes * r.randint(1, 4) if rule == "ps" else r.randint(1, 9),
        "height": r.randint(1, 11),
        "width": r.randint(1, 19),
        "rois": r.choice([1, 2, 5, 9]),
        "out_size": (side, side) if rule == "ps" else (side, r.randint(1, 5)),
        "group": r.choice([1, 1, 2, 3, side]) if rule == "ps" else 1,
        "part": r.choice([1, 2, 3, side]),
        "classes": classes if rule == "ps" else 1,
        "samples": r.randint(1, 4) if rule == "ps" else r.randint(0, 3),
        "scale": r.choice([0.2371, 0.0613, 0.9177]),
        "gamma": r.choice([0.1, 0.25]),
        "shifted": r.random() < 0.75,
        "reach": r.choice([0.3, 1.0, 10.0]),
        "seed": seed,
    }
    values |= fixed
    if not values["shifted"]:
        values["classes"] = 1
    return Case(**values)  # type: ignore[arg-type]


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "ps": dcnlab.ops.deform_ps_roi_pool,
    "aligned": dcnlab.ops.deform_roi_pool,
}
REFERENCES: dict[str, Callable[..., Tensor]] = {
    "ps": reference.deform_ps_roi_pool,
    "aligned": reference.deform_roi_pool,
}


def by_autograd(function: Callable[..., Tensor], case: Case, device: str = "cpu") -> Results:
    """Output and gradients of a function with the operators' signatures."""
    return _run(function, case, {k: None if t is None else t.to(device) for k, t in case.tensors().items()}, case.dtype)


def by_reference(case: Case) -> Results:
    """The reference, in float64 whatever the case's dtype: rounding is the other path's own."""
    tensors = {k: None if t is None else t.double() for k, t in case.tensors().items()}
    return _run(REFERENCES[case.rule], case, tensors, torch.float64)


def _run(function: Callable[..., Tensor], case: Case, tensors: dict[str, Tensor | None], dtype: torch.dtype) -> Results:
    leaves = {k: None if tensors[k] is None else tensors[k].requires_grad_() for k in ("input", "offset")}
    boxes = tensors["boxes"]
    output = function(leaves["input"], boxes, leaves["offset"], **case.sizes())
    output.backward(case.grad().to(output.device, dtype))
    grads = {k: None if t is None else torch.zeros_like(t) if t.grad is None else t.grad for k, t in leaves.items()}
    return {"output": output.detach()} | grads


def by_cpu(case: Case) -> Results:
    """The public operator on CPU tensors."""
    return by_autograd(FUNCTIONS[case.rule], case)


def arguments_of(case: Case, **changed: Tensor | None) -> PoolArguments:
    """The record of the arguments, as the paths take it."""
    tensors: dict[str, Any] = case.tensors() | changed
    if case.rule == "aligned":
        return RoIPoolArguments(*tensors.values(), case.out_size, case.scale, case.samples, case.gamma)
    sizes = (case.out_size[0], case.scale, case.group, case.part, case.samples, case.gamma)
    return PSRoIPoolArguments(*tensors.values(), *sizes)


def by_kernels(case: Case, modules: ModuleFactory) -> Results:
    """The CUDA path's own code, with kernels from `modules`: those that g++ compiled, say."""
    arguments = arguments_of(case)
    needed = PoolGradients(input=True, offset=arguments.offset is not None)
    output = cuda.forward(arguments, modules)
    return {"output": output} | cuda.backward(case.grad(), arguments, needed, modules)._asdict()
