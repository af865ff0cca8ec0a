"""Configurations of multi-scale deformable attention, the paths that compute it, and the published formula."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from tester import Results
from torch import Tensor
from torch.nn import functional

import dcnlab.ops
from dcnlab.ops import reference
from dcnlab.ops.cuda import ms_deform_attn as cuda
from dcnlab.ops.cuda.launch import ModuleFactory
from dcnlab.ops.ms_deform_attn import AttentionArguments, AttentionGradients

LEAVES = ("value", "sampling_locations", "attention_weights")


@dataclass
class Case:
    """One configuration; tensors are drawn from its seed, and printing it is enough to run it again."""

    batch: int = 2
    heads: int = 2
    channels: int = 4
    """Of a head."""
    height: int = 7
    width: int = 8
    """Of the first level; each other one is half as high and wide as the one before, rounded up."""
    levels: int = 2
    queries: int = 5
    points: int = 3
    normalized: bool = True
    reach: float = 0.6
    """Standard deviation of the locations around a level's middle, as a fraction of its size."""
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64)

    @property
    def real(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each level."""
        return [(-(-self.height >> level) or 1, -(-self.width >> level) or 1) for level in range(self.levels)]

    def tensors(self) -> dict[str, Tensor]:
        """The five tensors; locations are odd multiples of 1/64 pixel, so no path lands on a kink."""
        g = torch.Generator().manual_seed(self.seed)
        shapes = torch.tensor(self.sizes(), dtype=torch.int64).view(-1, 2)
        areas = [height * width for height, width in self.sizes()]
        samples = (self.batch, self.queries, self.heads, self.levels, self.points)
        size = shapes.flip(1).double()[:, None]  # width before height
        drawn = torch.randn(*samples, 2, generator=g, dtype=torch.float64) * self.reach + 0.5
        pixels = (((drawn * size - 0.5) * 32).round() * 2 + 1) / 64
        locations = (pixels + 0.5) / size if self.normalized else pixels
        value = torch.randn(self.batch, sum(areas), self.heads, self.channels, generator=g, dtype=torch.float64)
        weights = torch.rand(samples, generator=g, dtype=torch.float64) - 0.3
        return {
            "value": value.to(self.dtype),
            "spatial_shapes": shapes,
            "level_start_index": torch.tensor([0, *accumulate(areas)][:-1], dtype=torch.int64),
            "sampling_locations": locations.to(self.real),
            "attention_weights": weights.to(self.real),
        }

    def arguments(self, **changed: Tensor) -> AttentionArguments:
        """The record of the arguments, as the paths take it."""
        return AttentionArguments(**(self.tensors() | changed), normalized=self.normalized)

    def grad(self) -> Tensor:
        g = torch.Generator().manual_seed(self.seed + 1)
        shape = self.batch, self.queries, self.heads * self.channels
        return torch.randn(shape, generator=g, dtype=torch.float64).to(self.dtype)


def random_case(seed: int, **fixed: object) -> Case:
    """Draw a configuration over everything the operator takes, small enough for the reference."""
    r = random.Random(seed)
    values = {
        "batch": r.choice([1, 1, 2, 3]),
        "heads": r.choice([1, 2, 3, 8]),
        "channels": r.choice([1, 2, 3, 4, 8, 12, 16, 33, 40]),
        "height": r.randint(1, 11),
        "width": r.randint(1, 19),
        "levels": r.choice([1, 1, 2, 3, 4]),
        "queries": r.choice([1, 2, 7, 20]),
        "points": r.randint(1, 5),
        "normalized": r.random() < 0.7,
        "reach": r.choice([0.2, 0.6, 5.0]),
        "seed": seed,
    }
    return Case(**(values | fixed))  # type: ignore[arg-type]


def published(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    normalized: bool = True,
) -> Tensor:
    """Equation 3 of Zhu et al., 2021, by torch's grid_sample: level by level, as Deformable DETR's own test does."""
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    total = value.new_zeros(batch * heads, channels, queries)
    for level, ((height, width), start) in enumerate(
        zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    ):
        map = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        places = sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (N * M, Q, P, 2)
        if not normalized:
            places = (places + 0.5) / places.new_tensor([width, height])
        read = functional.grid_sample(map, 2 * places - 1, padding_mode="zeros", align_corners=False)
        weights = attention_weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (read * weights[:, None]).sum(3)
    return total.view(batch, heads * channels, queries).transpose(1, 2)


def by_autograd(function: Callable[..., Tensor], case: Case, device: str = "cpu") -> Results:
    """Output and gradients of a function with the operator's signature."""
    return _run(function, case, {name: tensor.to(device) for name, tensor in case.tensors().items()}, case.dtype)


def by_reference(case: Case) -> Results:
    """The reference, in float64 whatever the case's dtype: rounding is the other path's own."""
    return in_float64(reference.ms_deform_attn, case)


def in_float64(function: Callable[..., Tensor], case: Case) -> Results:
    """Output and gradients of a function, all numbers in float64."""
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in case.tensors().items()}
    return _run(function, case, tensors, torch.float64)


def _run(function: Callable[..., Tensor], case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> Results:
    for name in LEAVES:
        tensors[name].requires_grad_()
    output = function(*tensors.values(), normalized=case.normalized)
    output.backward(case.grad().to(output.device, dtype))
    return {"output": output.detach()} | {name: tensors[name].grad for name in LEAVES}


def by_cpu(case: Case) -> Results:
    """The public operator on CPU tensors."""
    return by_autograd(dcnlab.ops.ms_deform_attn, case)


def by_kernels(case: Case, modules: ModuleFactory, **changed: Tensor) -> Results:
    """The CUDA path's own code, with kernels from `modules`: those that g++ compiled, say."""
    arguments, needed = case.arguments(**changed), AttentionGradients(True, True, True)
    output = cuda.forward(arguments, modules)
    return {"output": output} | cuda.backward(case.grad(), arguments, needed, modules)._asdict()
