"""Counts what a call on the stand-in driver asks of a GPU: launches, products, torch's kernels, memory.

With products stubbed, shapes of full size take milliseconds: nothing is computed, and memory that nobody touches costs
nothing.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import driver
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcnlab.ops.cuda import matmul

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_NO_KERNEL = {
    *("permute", "view", "transpose", "t", "slice", "select", "expand", "detach", "as_strided", "_unsafe_view"),
    *("alias", "unsqueeze", "squeeze", "empty", "empty_strided", "new_empty", "set_"),
}
"""Operators that launch nothing: views, and memory that is not written."""


class Meter(TorchDispatchMode):
    """What torch does in the block: kernels by name, and allocations. Stubbed products do not pass here."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.allocations = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator."""
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = operator(*args, **(kwargs or {}))
        name = operator._overloadpacket.__name__
        if name not in _NO_KERNEL:
            self.kernels[name] += 1
        outputs = (t.untyped_storage() for t in tree_leaves(result) if isinstance(t, Tensor))
        self.allocations += len({s.data_ptr() for s in outputs if s.nbytes()} - given)
        return result


@contextlib.contextmanager
def stubbed_products() -> Iterator[Counter[str]]:
    """Matrix products that compute nothing; how often each was called."""
    called: Counter[str] = Counter()
    real = {name: getattr(torch, name) for name in PRODUCTS}

    def stub(name: str) -> Callable[..., Tensor]:
        def product(*matrices: Tensor, out: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
            called[name] += 1
            a, b = matrices[-2:]
            shape = (*a.shape[:-1], b.shape[-1])
            if out is None:
                return torch.empty(shape, dtype=out_dtype or a.dtype)
            assert out.shape == shape, f"{name} of {tuple(a.shape)} and {tuple(b.shape)} into {tuple(out.shape)}"
            return out

        return product

    for name in PRODUCTS:
        setattr(torch, name, stub(name))
    unrounded = matmul._unrounded
    matmul._unrounded = lambda product, left, right, dtype: product(left, right, out_dtype=dtype)  # as on CUDA
    try:
        yield called
    finally:
        matmul._unrounded = unrounded
        for name, function in real.items():
            setattr(torch, name, function)


def counts(call: Callable[[], object]) -> dict[str, Any]:
    """What one call does, after another has loaded its kernels.

    Returns:
        kernels: ours, launched by the driver; products; torch: kernels of torch's, by name; launches: all of them;
        allocations: of torch's; guards, streams: how often the device guard was entered and the current stream asked.
    """
    here = driver.installed()
    here.executes(False)
    with stubbed_products() as multiplied:
        call()
        multiplied.clear()
        before, guards, streams = here.count, here.guards, here.streams
        with Meter() as meter:
            call()
    kernels = here.count - before
    return {
        "kernels": kernels,
        "products": multiplied.total(),
        "torch": dict(meter.kernels),
        "launches": kernels + multiplied.total() + meter.kernels.total(),
        "allocations": meter.allocations,
        "guards": here.guards - guards,
        "streams": here.streams - streams,
    }


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that a call holds above what it was given, by torch's allocator, products stubbed."""
    driver.installed().executes(False)
    with stubbed_products():
        call()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = call()
    del result
    held = most = 0
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
