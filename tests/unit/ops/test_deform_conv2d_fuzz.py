"""Random deformable convolutions against the reference and torchvision; a failure prints the case and its seed."""

import functools
import random

import pytest
import torch
import torchvision
from conv_cases import by_autograd, by_cpu, by_cpu_path, by_reference, random_case, small_groups_case
from tester import assert_near

from dcnlab.ops.chunk_sizes import CpuChunks

DTYPES = (torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("batch", range(20))
def test_random_cases_equal_the_reference(batch, monkeypatch):
    """Chunk sizes, thread counts and dtypes are drawn, too; 2000 cases."""
    for seed in range(1000 + 100 * batch, 1100 + 100 * batch):
        draw = random.Random(seed)
        dtype = draw.choice(DTYPES)
        few = seed % 4 == 0  # channels a group
        case = small_groups_case(seed, draw.choice([1, 2, 4]), dtype=dtype) if few else random_case(seed, dtype=dtype)
        columns_bytes, filters_bytes = draw.choice([1, 4000, 1 << 23]), draw.choice([1, 1000, 1 << 21])
        chunks = CpuChunks(columns_bytes=columns_bytes, min_rows=1, filters_bytes=filters_bytes)
        monkeypatch.setattr(torch, "get_num_threads", functools.partial(draw.choice, [draw.choice([1, 2, 5])]))
        assert_near(by_cpu_path(case, chunks), by_reference(case), case)


@pytest.mark.parametrize("batch", range(30))
def test_random_float32_cases_equal_torchvision(batch):
    """3000 random shapes, strides, groups and masks: outputs and gradients equal torchvision's."""
    for seed in range(5000 + 100 * batch, 5100 + 100 * batch):
        case = random_case(seed, dtype=torch.float32)
        assert_near(by_cpu(case), by_autograd(torchvision.ops.deform_conv2d, case), case)
