"""Scratch memory: shapes, and that nothing fills it where torch fills what is uninitialised."""

import math
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dcnlab.ops.cuda.scratch import scratch, zeros

CPU = torch.device("cpu")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.int32], ids=str)
def test_scratch_tensors_are_contiguous_in_both_modes(dtype, shape, request):
    """Shape, strides, dtype and size are equal with and without deterministic algorithms."""
    plain = scratch(shape, dtype, CPU)
    request.getfixturevalue("deterministic")
    found = scratch(shape, dtype, CPU)
    assert (found.shape, found.stride(), found.dtype) == (plain.shape, plain.stride(), dtype)
    assert found.untyped_storage().nbytes() == math.prod(shape) * dtype.itemsize
    found.fill_(3)
    assert found.eq(3).all()


@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms_do_not_fill_scratch_with_nan():
    """torch fills new tensors with NaN in that mode, which costs time for nothing."""

    class Filled(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            self.names.append(operator._overloadpacket.__name__)
            return operator(*args, **(kwargs or {}))

    assert torch.empty(1000).isnan().all()  # what torch does here
    with Filled() as seen:
        scratch((1000,), torch.float32, CPU)
        assert zeros(7, torch.int32, CPU).tolist() == [0] * 7
    assert seen.names.count("zero_") == 1
    assert not {"fill_", "empty_like", "zeros"} & set(seen.names)
