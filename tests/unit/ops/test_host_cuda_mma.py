"""Tensor cores and asynchronous copies on the CPU harness: the PTX ISA's layouts, and copies that arrive late."""

from __future__ import annotations

import numpy as np
import pytest
import runner
import torch
from runner import ORDERS, HostKernelError, HostModule

SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>

extern "C" __global__ void matrices(const int4* in, unsigned* out, int shift) {
    __shared__ __align__(16) int4 rows[33];
    rows[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    unsigned found[4];
    load_matrices(found, reinterpret_cast<const char*>(&rows[threadIdx.x]) + shift);
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = found[i];
}

extern "C" __global__ void matrices_elsewhere(const int4* in) {
    unsigned found[4];
    load_matrices(found, &in[threadIdx.x]);
}

template <class T>
__device__ void product(const unsigned* a, const unsigned* b, float* c) {
    unsigned left[4], right[2];
    float sum[4];
    for (int i = 0; i < 4; ++i) left[i] = a[4 * threadIdx.x + i], sum[i] = c[4 * threadIdx.x + i];
    for (int i = 0; i < 2; ++i) right[i] = b[2 * threadIdx.x + i];
    multiply_add<T>(sum, left, right);
    for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sum[i];
}
extern "C" __global__ void halves(const unsigned* a, const unsigned* b, float* c) { product<__half>(a, b, c); }
extern "C" __global__ void brains(const unsigned* a, const unsigned* b, float* c) { product<__nv_bfloat16>(a, b, c); }
extern "C" __global__ void singles(const unsigned* a, const unsigned* b, float* c) { product<float>(a, b, c); }

extern "C" __global__ void half_a_warp(const unsigned* a, const unsigned* b, float* c) {
    if (threadIdx.x < 16) product<__half>(a, b, c);
}

extern "C" __global__ void rounded(const float* in, float* out) { out[threadIdx.x] = to_tf32(in[threadIdx.x]); }

// To `out`: what the thread's own target holds before its wait and after it, and another's after the barrier.
extern "C" __global__ void copies(const int4* in, int4* out, int zeros_from) {
    __shared__ __align__(16) int4 target[32];
    const int i = threadIdx.x;
    target[i] = make_int4(1, 1, 1, 1);
    __syncthreads();
    copy_async(&target[i], &in[i], i < zeros_from);
    out[i] = target[i];
    wait_for_copies();
    out[32 + i] = target[i];
    __syncthreads();
    out[64 + i] = target[31 - i];
}

extern "C" __global__ void copies_before_a_barrier_only(const int4* in, int4* out) {
    __shared__ __align__(16) int4 target[32];
    copy_async(&target[threadIdx.x], &in[threadIdx.x], true);
    __syncthreads();
    out[threadIdx.x] = target[threadIdx.x];
}

extern "C" __global__ void copies_elsewhere(const int4* in, int4* out) { copy_async(&out[threadIdx.x], in, true); }
"""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sanitized"])
def make(request):
    runner.skip_without_compiler(request.param)
    return lambda order="forward": HostModule(SOURCE, order, sanitize=request.param)


def words(count: int) -> torch.Tensor:
    """Different 32-bit words."""
    return torch.arange(1, count + 1, dtype=torch.int32) * 2654435 + 77


def fragments_of_a(matrix: np.ndarray, each: int) -> np.ndarray:
    """Registers (lane, 4) of a (16, 8 * each), the ISA's picture as axes. Lane: row, column; register: their halves."""
    halves = matrix.reshape(2, 8, 2, 4, each)  # half of the rows, row, half of the columns, lane, in the register
    return halves.transpose(1, 3, 2, 0, 4).reshape(32, 4, each)


def fragments_of_b(matrix: np.ndarray, each: int) -> np.ndarray:
    """Registers (lane, 2) of b (8 * each, 8). Lane: column of b, then row; register: half of the rows."""
    halves = matrix.reshape(2, 4, each, 8)
    return halves.transpose(3, 1, 0, 2).reshape(32, 2, each)


def fragments_of_c(matrix: np.ndarray) -> np.ndarray:
    """Floats (lane, 4) of c (16, 8). Lane: row in half, pair of columns; register: half of the rows, then column."""
    return matrix.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4)


@pytest.mark.parametrize("order", ORDERS)
def test_ldmatrix_gives_lane_4r_plus_c_the_word_c_of_row_r(make, order):
    """The layout of the PTX manual: matrix rows of eight 16-bit elements."""
    given, out = words(128), torch.zeros(32, 4, dtype=torch.int32)
    make(order).launch("matrices", (1,), (32,), (given, out, np.int32(0)))
    rows = given.numpy().reshape(4, 8, 4)  # matrix, row, word
    np.testing.assert_array_equal(out.numpy(), rows.transpose(1, 2, 0).reshape(32, 4))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kernel", "dtype"), [("halves", torch.float16), ("brains", torch.bfloat16), ("singles", torch.float32)]
)
def test_mma_uses_the_fragment_layout_of_the_ptx_manual(make, order, kernel, dtype):
    """Products of small integers are exact and equal NumPy's matrix product."""
    each = 4 // dtype.itemsize
    generator = np.random.default_rng(0)
    a, b, c = (
        generator.integers(-9, 9, shape).astype(np.float32) for shape in ((16, 8 * each), (8 * each, 8), (16, 8))
    )
    left, right = (
        torch.from_numpy(np.ascontiguousarray(found)).to(dtype).view(torch.int32)
        for found in (fragments_of_a(a, each), fragments_of_b(b, each))
    )
    sums = torch.from_numpy(np.ascontiguousarray(fragments_of_c(c)))
    make(order).launch(kernel, (1,), (32,), (left, right, sums))
    np.testing.assert_array_equal(sums.numpy(), fragments_of_c(c + a @ b))  # small whole numbers: exact


def test_tf32_operands_lose_their_last_thirteen_bits(make):
    """The tensor core reads 10 bits of the mantissa and cuts the others off."""
    a, b, c = (torch.zeros(size) for size in ((32, 4), (32, 2), (32, 4)))
    a[0, 0] = 1 + 2**-10 + 2**-11
    b[0, 0] = 1
    make().launch("singles", (1,), (32,), (a.view(torch.int32), b.view(torch.int32), c))
    assert c[0, 0] == 1 + 2**-10


def test_tf32_rounds_to_nearest_and_ties_away_from_zero(make):
    """cvt.rna of the PTX manual, with infinities and NaN."""
    step = 2.0**-10
    values = [1.0, 1 + step / 2, 1 + step * 0.49, -1 - step / 2, 1 + 1.5 * step, 0.0, np.inf, -np.inf]
    expected = [1.0, 1 + step, 1.0, -1 - step, 1 + 2 * step, 0.0, np.inf, -np.inf]
    given, out = torch.tensor([*values, np.nan]), torch.zeros(9)
    make().launch("rounded", (1,), (9,), (given, out))
    assert out[:8].tolist() == expected
    assert out[8].isnan()


@pytest.mark.parametrize("order", ORDERS)
def test_asynchronous_copies_arrive_at_the_wait(make, order):
    """Before cp.async.wait the old values must show, so that a missing wait is found."""
    given, out = words(128), torch.zeros(3, 32, 4, dtype=torch.int32)
    make(order).launch("copies", (1,), (32,), (given, out, np.int32(20)))
    expected = given.view(32, 4).clone()
    expected[20:] = 0
    assert (out[0] == -1).all()
    assert torch.equal(out[1], expected)
    assert torch.equal(out[2], expected.flip(0))


def test_a_barrier_does_not_wait_for_copies(make):
    """__syncthreads alone leaves the old values, as on the GPU."""
    out = torch.zeros(32, 4, dtype=torch.int32)
    make().launch("copies_before_a_barrier_only", (1,), (32,), (words(128), out))
    assert (out == -1).all()


def test_addresses_outside_shared_memory_are_reported(make):
    given = words(128)
    with pytest.raises(HostKernelError, match="not in shared memory"):
        make().launch("matrices_elsewhere", (1,), (32,), (given,))
    with pytest.raises(HostKernelError, match="not in shared memory"):
        make().launch("copies_elsewhere", (1,), (32,), (given, torch.zeros(128, dtype=torch.int32)))


def test_half_a_warp_cannot_use_mma(make):
    """The instruction needs all 32 lanes; the error counts those that wait."""
    args = (torch.zeros(128, dtype=torch.int32), torch.zeros(64, dtype=torch.int32), torch.zeros(128))
    with pytest.raises(HostKernelError, match=r"(?s)diverged.*16 wait in a warp operation"):
        make().launch("half_a_warp", (1,), (32,), args)


def test_a_matrix_row_off_16_bytes_is_reported():
    """ldmatrix from an address that is not a multiple of 16 is an error."""
    runner.skip_without_compiler()
    out = torch.zeros(128, dtype=torch.int32)
    with pytest.raises(HostKernelError, match="misaligned address"):
        HostModule(SOURCE).launch("matrices", (1,), (32,), (words(128), out, np.int32(4)))
