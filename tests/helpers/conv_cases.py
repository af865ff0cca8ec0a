"""Configurations of deformable convolution, the paths that compute it, and how near they must come to each other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tester import Results
from torch import Tensor

import dcnlab.ops
from dcnlab.ops import reference
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import deform_conv2d as cpu
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.cuda.launch import ModuleFactory
from dcnlab.ops.geometry import ConvArguments, ConvGradients

SMALL_GROUPS = {"channels": 8, "groups": 8, "filters": 16, "offset_groups": 2}
"""Of a `Case`: two filters read a channel; on a CPU loops without columns compute it."""

NAMES = ("input", "offset", "mask", "weight", "bias")


@dataclass
class Case:
    """One configuration; tensors are drawn from its seed, and printing it is enough to run it again."""

    batch: int = 2
    channels: int = 4
    filters: int = 6
    height: int = 7
    width: int = 8
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    modulated: bool = False
    biased: bool = False
    reach: float = 2.0
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64)

    def out_size(self) -> tuple[int, int]:
        sizes = zip((self.height, self.width), self.padding, self.dilation, self.kernel, self.stride, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes)
        return height, width

    def tensors(self) -> dict[str, Tensor | None]:
        """input, offset, mask, weight, bias; offsets are multiples of 1/64 and odd, so no path lands on a kink."""
        g = torch.Generator().manual_seed(self.seed)
        taps, out = self.kernel[0] * self.kernel[1], self.out_size()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(self.dtype)

        shape = (self.batch, 2 * self.offset_groups * taps, *out)
        steps = (torch.randn(shape, generator=g, dtype=torch.float64) * self.reach * 32).round() * 2 + 1
        offset = (steps / 64).to(torch.float64 if self.dtype == torch.float64 else torch.float32)
        mask = torch.rand(self.batch, self.offset_groups * taps, *out, generator=g, dtype=torch.float64).to(
            offset.dtype
        )
        return {
            "input": normal(self.batch, self.channels, self.height, self.width),
            "offset": offset,
            "mask": mask if self.modulated else None,
            "weight": normal(self.filters, self.channels // self.groups, *self.kernel),
            "bias": normal(self.filters) if self.biased else None,
        }

    def arguments(self, **changed: object) -> ConvArguments:
        """The record of the arguments, as the paths take it."""
        pairs = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return ConvArguments(**(self.tensors() | pairs | changed))  # type: ignore[arg-type]

    def needed(self) -> ConvGradients[bool]:
        """All gradients that the paths compute."""
        return ConvGradients(input=True, offset=True, weight=True, bias=False, mask=self.modulated)

    def grad(self) -> Tensor:
        g = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(self.batch, self.filters, *self.out_size(), generator=g, dtype=torch.float64).to(self.dtype)


def random_case(seed: int, **fixed: object) -> Case:
    """Draw a configuration over everything the operator takes, small enough for the reference."""
    r = random.Random(seed)
    groups, offset_groups = r.choice([1, 1, 2, 3]), r.choice([1, 1, 2, 4])
    kernel = (r.randint(1, 3), r.choice([1, 2, 3, 5]))
    dilation = (r.randint(1, 3), r.randint(1, 2))
    padding = (r.randint(0, 3), r.randint(0, 3))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    values = {
        "batch": r.choice([1, 1, 2, 3]),
        "channels": groups * offset_groups * r.randint(1, 3),
        "filters": groups * r.randint(1, 4),
        "height": least[0] + r.randint(0, 8),
        "width": least[1] + r.randint(0, 8),
        "kernel": kernel,
        "stride": (r.randint(1, 3), r.randint(1, 2)),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "offset_groups": offset_groups,
        "modulated": r.random() < 0.5,
        "biased": r.random() < 0.5,
        "reach": r.choice([0.3, 2.0, 20.0]),
        "seed": seed,
    }
    return Case(**(values | fixed))  # type: ignore[arg-type]


def depthwise_case(seed: int, **fixed: object) -> Case:
    """A random configuration of a group a channel, with one to three filters each."""
    return small_groups_case(seed, 1, **fixed)


def small_groups_case(seed: int, depth: int, **fixed: object) -> Case:
    """A random configuration of many groups of `depth` channels, with one to three filters each."""
    r = random.Random(seed)
    offset_groups = r.choice([1, 1, 2, 4])
    groups = offset_groups * r.choice([2, 3, 4, 8, 12, 16, 40])
    sizes = {"channels": groups * depth, "groups": groups, "offset_groups": offset_groups}
    return random_case(seed, **(sizes | {"filters": groups * r.choice([1, 1, 1, 2, 3])} | fixed))


def by_autograd(function: Callable[..., Tensor], case: Case, device: str = "cpu", **options: object) -> Results:
    """Output and gradients of a function with torchvision's signature."""
    tensors = {k: None if t is None else t.to(device).requires_grad_() for k, t in case.tensors().items()}
    output = function(
        tensors["input"],
        tensors["offset"],
        tensors["weight"],
        tensors["bias"],
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        mask=tensors["mask"],
        **options,
    )
    output.backward(case.grad().to(device))
    return {"output": output.detach()} | {k: None if t is None else t.grad for k, t in tensors.items()}


def by_reference(case: Case) -> Results:
    """The reference, in float64 whatever the case's dtype: rounding is the other path's own."""
    tensors = {k: None if t is None else t.double().requires_grad_() for k, t in case.tensors().items()}
    output = reference.deform_conv2d(
        *(tensors[k] for k in ("input", "offset", "weight", "bias")),  # type: ignore[arg-type]
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        mask=tensors["mask"],
    )
    output.backward(case.grad().double())
    return {"output": output.detach()} | {k: None if t is None else t.grad for k, t in tensors.items()}


def by_cpu(case: Case) -> Results:
    """The public operator on CPU tensors."""
    return by_autograd(dcnlab.ops.deform_conv2d, case)


def by_cpu_path(case: Case, chunks: CpuChunks) -> Results:
    """The CPU path's own code, in chunks of given sizes."""
    arguments = case.arguments()
    return _results(case, cpu.forward(arguments, chunks), cpu.backward(case.grad(), arguments, case.needed(), chunks))


def by_kernels(case: Case, modules: ModuleFactory, chunk_bytes: int | None = None) -> Results:
    """The CUDA path's own code, with kernels from `modules`: those that g++ compiled, say."""
    arguments = case.arguments()
    output = cuda.forward(arguments, modules, chunk_bytes)
    return _results(case, output, cuda.backward(case.grad(), arguments, case.needed(), modules, chunk_bytes))


def _results(case: Case, output: Tensor, grads: ConvGradients[Tensor | None]) -> Results:
    """Output and gradients; that of the bias is the same on every path."""
    bias = case.grad().sum((0, 2, 3)) if case.biased else None
    return {"output": output} | grads._replace(bias=bias)._asdict()


def infinite_factor_at_the_border(dtype: torch.dtype) -> Case:
    """A case of one tap, nowhere negative, that reads half a pixel above the map at one place, times infinity."""
    case = Case(
        batch=1, channels=8, filters=8, height=4, width=4, kernel=(1, 1), padding=(0, 0), modulated=True, dtype=dtype
    )
    tensors = case.tensors()
    tensors["offset"].zero_()
    tensors["offset"][0, :, 0, 0] = torch.tensor([-0.5, 0.5])
    tensors["mask"][0, 0, 0, 0] = torch.inf
    tensors["input"], tensors["weight"] = tensors["input"].abs(), tensors["weight"].abs()
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}  # type: ignore[method-assign]
    return case


LOCATIONS = {
    "between four pixels": (1.25, 2.5),
    "on a pixel": (1.0, 2.0),
    "between two pixels": (1.0, 2.5),
    "half above the map": (-0.5, 2.5),
    "beyond its corner": (-0.5, -0.5),
    "on the last pixel": (3.0, 3.0),
    "half below the map": (3.5, 1.5),
    "at exactly -1": (-1.0, 1.0),
    "off the map": (9.0, 1.0),
    "nowhere": (float("nan"), 1.0),
}
"""Sampling locations, y and x, on a map of 4x4."""

ON_THE_MAP = len(LOCATIONS) - 3


def factor_everywhere(value: float, dtype: torch.dtype, groups: int = 1) -> Case:
    """A modulated case of one tap: an image for each location, which the first output pixel reads, times the factor.

    Neighbouring pixels differ in sign, so that the infinite factor times each of them would leave infinity less
    infinity. Channels are multiples of one another, and filters positive; there are eight of each.
    """
    count = len(LOCATIONS)
    case = Case(count, 8, 8, 4, 4, (1, 1), padding=(0, 0), groups=groups, modulated=True, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    pixels = (torch.arange(16.0).view(4, 4) + 1) * torch.tensor([1.0, -1.0]).repeat(8).view(4, 4)
    offset, mask = torch.zeros(count, 2, 4, 4), torch.ones(count, 1, 4, 4)
    offset[:, :, 0, 0], mask[:, 0, 0, 0] = torch.tensor(list(LOCATIONS.values())), value
    tensors = {
        "input": (pixels * torch.tensor([1.0, 2.0] * 4).view(8, 1, 1)).expand(count, -1, -1, -1).to(dtype),
        "offset": offset.to(torch.float64 if dtype == torch.float64 else torch.float32),
        "mask": mask.to(torch.float64 if dtype == torch.float64 else torch.float32),
        "weight": (torch.rand(8, 8 // groups, 1, 1, generator=g) + 0.5).to(dtype),
        "bias": None,
    }
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}  # type: ignore[method-assign]
    case.grad = lambda: torch.ones(count, 8, 4, 4, dtype=dtype)  # type: ignore[method-assign]
    return case


def assert_alike(found: Results, expected: Results, names: tuple[str, ...], tolerance: float) -> None:
    """Hold results against others where some are infinite or NaN: those have to be the same."""
    for name in names:
        value, other = found[name], expected[name]
        assert value is not None
        assert other is not None
        for number, location in enumerate(LOCATIONS if len(value) == len(LOCATIONS) else ["all"]):
            rows = (value, other) if location == "all" else (value[number], other[number])
            torch.testing.assert_close(
                *(row.detach().double().cpu() for row in rows),
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
                msg=lambda text, name=name, location=location: f"{name} {location}: {text}",
            )
