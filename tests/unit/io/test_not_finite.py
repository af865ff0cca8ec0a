"""Which tensors hold NaN or infinity."""

import pytest
import torch

from dcnlab.io.torch_file import not_finite

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_bad_value_anywhere_names_its_tensor(dtype):
    """NaN and both infinities are seen, also where they would cancel in a sum."""
    bad = {}
    for name, values in {"nan": [float("nan")], "inf": [float("inf")], "both": [float("inf"), -float("inf")]}.items():
        bad[name] = torch.ones(5, 7, dtype=dtype)
        bad[name].view(-1)[11 : 11 + len(values)] = torch.tensor(values, dtype=dtype)
    fine = {"ones": torch.ones(3, dtype=dtype), "none": torch.empty(0, dtype=dtype), "counts": torch.tensor([1])}
    assert not_finite({**fine, **bad}) == list(bad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_finite_values_whose_sum_overflows_are_finite(dtype):
    """The largest values of a type are finite, however many there are."""
    largest = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    assert not_finite(
        {"largest": largest, "smallest": -largest, "bad": torch.full((2,), float("inf"), dtype=dtype)}
    ) == ["bad"]


def test_no_tensors_at_all_are_fine():
    """Nothing and whole numbers have no NaN."""
    assert not_finite({}) == [] == not_finite({"steps": torch.tensor(3)})
