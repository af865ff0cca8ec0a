"""The counts of the CUDA kernels' traffic hold together, at a shape small enough to work out."""

import pytest
import torch
import traffic
from operators import Shape
from runner import skip_without_compiler


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler(sanitize=False)


def check(rows):
    for row in rows:
        assert row["least_bytes"] <= row["blocks_bytes"] <= row["requests_bytes"]
        asked = sum(access["bytes"] for access in row["arrays"].values())
        assert asked == row["asked_bytes"]
        least = max(row["least_bytes"] / 4.3e12, row["flops"] / 60e12)
        assert row["floor_us"] == pytest.approx(1e6 * least)


def test_conv_kernels_write_each_element_once():
    """The bytes stored by each CUDA kernel equal the size of its columns, offset gradients or pixels."""
    rows = list(traffic.rows_of(traffic.convolution(Shape(16, 6, 5), torch.float32), torch.float32))
    check(rows)
    by_kernel = {row["kernel"]: row for row in rows}
    assert list(by_kernel) == ["sample", "sample_and_count", "places_backward", "gather"]
    columns, maps, shifts = 4 * 9 * 30 * 16, 4 * 30 * 16, 4 * 9 * 30 * 2
    assert by_kernel["sample"]["arrays"]["columns stores"]["bytes"] == columns
    assert by_kernel["places_backward"]["arrays"]["grad_shift stores"]["bytes"] == shifts
    assert by_kernel["gather"]["arrays"]["grad_pixels stores"]["bytes"] == maps
    assert by_kernel["sample"]["least_flops"] == 8 * columns / 4
    traffic.table([{"shape": "16x6x5", "dtype": "float32"} | row for row in rows])


def test_pool_kernels_write_each_element_once():
    """The bytes stored by each CUDA kernel equal the size of its bins, offset gradients or pixels."""
    pool = traffic.Pooling(8, 1, boxes=3, height=9, width=10)
    rows = list(traffic.rows_of(traffic.pooling(pool, torch.float32), torch.float32))
    check(rows)
    by_kernel = {row["kernel"]: row for row in rows}
    assert by_kernel["pool"]["arrays"]["out stores"]["bytes"] == 4 * 3 * 49 * 8
    assert by_kernel["input_backward"]["arrays"]["grad_pixels stores"]["bytes"] == 4 * 8 * 90
    assert by_kernel["offset_backward"]["arrays"]["grad_offset stores"]["bytes"] == 4 * 3 * 2 * 49
