"""The CPU harness for CUDA kernels: it computes what CUDA would, and it notices what CUDA would not forgive."""

from __future__ import annotations

import time

import numpy as np
import pytest
import runner
import torch
from runner import ORDERS, HostKernelError, HostModule

# One text for all tests, so that it is compiled twice and no more.
SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>

template <int N>
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float partial[N];
    partial[threadIdx.x] = value;
    __syncthreads();
#pragma unroll
    for (int half_size = N / 2; half_size > 0; half_size /= 2) {
        if (threadIdx.x < half_size) partial[threadIdx.x] += partial[threadIdx.x + half_size];
        __syncthreads();
    }
    return partial[0];
}

extern "C" __global__ void __launch_bounds__(128) sum_blocks(const float* __restrict__ in, float* out, long long n) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const float total = block_sum<128>(i < n ? __ldg(in + i) : 0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

extern "C" __global__ void shuffles(const int* in, int* out) {
    const int lane = threadIdx.x, value = in[lane];
    int* row = out + lane;
    row[0 * 32] = __shfl_down_sync(0xffffffffu, value, 3);
    row[1 * 32] = __shfl_up_sync(0xffffffffu, value, 3);
    row[2 * 32] = __shfl_xor_sync(0xffffffffu, value, 5);
    row[3 * 32] = __shfl_sync(0xffffffffu, value, 7);
    row[4 * 32] = __shfl_down_sync(0xffffffffu, value, 3, 8);
    row[5 * 32] = __shfl_sync(0xffffffffu, value, 2, 8);
    row[6 * 32] = int(__ballot_sync(0xffffffffu, value % 3 == 0));
    row[7 * 32] = __any_sync(0xffffffffu, value == 5) * 2 + __all_sync(0xffffffffu, value >= 0);
    if (lane < 16) row[8 * 32] = __shfl_xor_sync(0x0000ffffu, value, 1);
    else row[8 * 32] = __shfl_xor_sync(0xffff0000u, value, 2);
    row[9 * 32] = int(__match_any_sync(0xffffffffu, lane % 4));
}

extern "C" __global__ void warp_sums(const double* in, double* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    double value = in[i];
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xffffffffu, value, delta);
    if (threadIdx.x % 32 == 0) out[i / 32] = value;
}

extern "C" __global__ void partial_warp(float* out) {
    const float mine = float(threadIdx.x);
    out[threadIdx.x] = __shfl_down_sync(0xffffffffu, mine, 2);
}

extern "C" __global__ void neighbour_without_barrier(int* out) {
    __shared__ int values[64];
    values[threadIdx.x] = int(threadIdx.x);
    out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

extern "C" __global__ void last_block_wins(int* out) { out[0] = int(blockIdx.x); }

extern "C" __global__ void index_of_everything(int* out) {
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 10000 * block + thread;
}

extern "C" __global__ void reverse_dynamic(float* data) {
    extern __shared__ __align__(16) float buffer[];
    buffer[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void stale_shared(float* out, int write) {
    __shared__ float cell;
    if (write && threadIdx.x == 0) cell = 1.0f;
    __syncthreads();
    out[blockIdx.x] = cell;
    __syncthreads();
    if (threadIdx.x == 0) cell = 2.0f;
}

extern "C" __global__ void count(int* ints, unsigned* unsigneds, float* floats, double* doubles) {
    atomicAdd(ints, 1);
    atomicAdd(unsigneds, 2u);
    atomicAdd(floats, 0.5f);
    atomicAdd(doubles, 0.25);
    atomicMax(ints + 1, int(threadIdx.x));
}

extern "C" __global__ void narrow(const float* in, __half* halves, __nv_bfloat16* brains, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    halves[i] = __float2half_rn(in[i]);
    brains[i] = __float2bfloat16_rn(in[i]);
}

extern "C" __global__ void widen(const __half* halves, const __nv_bfloat16* brains, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = __half2float(halves[i]);
    out[n + i] = __bfloat162float(brains[i]);
}

extern "C" __global__ void copy16(const __half* in, __half* out) {
    reinterpret_cast<int4*>(out)[threadIdx.x] = reinterpret_cast<const int4*>(in)[threadIdx.x];
}

template <class T, int N> struct Row { T value[N]; };
extern "C" __global__ void shared_aligned(int* out) {
    __shared__ __align__(16) int first[8];
    __shared__ alignas(16) Row<int, 4> second[2];
    __shared__ unsigned long long third;
    if (threadIdx.x == 0) third = 5;
    first[threadIdx.x] = int(threadIdx.x);
    second[threadIdx.x / 4].value[threadIdx.x % 4] = 10 + int(threadIdx.x);
    __syncthreads();
    if (threadIdx.x < 2) {
        reinterpret_cast<int4*>(out)[threadIdx.x] = reinterpret_cast<int4*>(first)[threadIdx.x];
        reinterpret_cast<int4*>(out)[2 + threadIdx.x] = *reinterpret_cast<int4*>(&second[threadIdx.x]);
    }
    if (threadIdx.x == 0) out[16] = int(third);
}

struct Shape { int height; long long width; float scale; };
extern "C" __global__ void by_value(const Shape shape, const float* missing, double* out, bool flag,
                                    unsigned char small) {
    out[0] = shape.height; out[1] = double(shape.width); out[2] = shape.scale;
    out[3] = missing == nullptr; out[4] = flag; out[5] = small;
}

extern "C" __global__ void nan_rules(float nan, float* out) {
    out[0] = min(nan, 2.0f); out[1] = max(2.0f, nan);
    out[2] = float(__float2int_rd(nan)); out[3] = float(__float2int_rd(-1.5f)); out[4] = float(__float2int_rd(1e20f));
}

extern "C" __global__ void two_barriers(float* data) {
    __shared__ float values[128];
    values[threadIdx.x] = data[blockIdx.x * 128 + threadIdx.x];
    __syncthreads();
    const float other = values[127 - threadIdx.x];
    __syncthreads();
    data[blockIdx.x * 128 + threadIdx.x] = other;
}

// ---- Faulty on purpose ----
extern "C" __global__ void write_at(float* out, int where) { out[where] = 1.0f; }
extern "C" __global__ void read_at(const float* in, float* out, int where) { out[0] = in[where]; }
extern "C" __global__ void shared_at(float* out, int where) {
    __shared__ float values[8];
    extern __shared__ float dynamic[];
    values[where] = 1.0f;
    dynamic[where] = 1.0f;
    out[0] = values[where] + dynamic[where];
}
extern "C" __global__ void shared_unaligned(int* out) {
    __shared__ float values[8];
    out[0] = reinterpret_cast<int4*>(values)->x;
}
extern "C" __global__ void leaves_early(int* out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void two_places(int* out) {
    if (threadIdx.x < 16) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}
extern "C" __global__ void half_a_warp(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
    else __syncwarp();
}
extern "C" __global__ void outside_its_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(1u, int(threadIdx.x), 1); }
extern "C" __global__ void to_int(float value, int* out) { out[0] = int(value); }
extern "C" __global__ void overflow(int value, int* out) { out[0] = value + value; }
"""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sanitized"])
def make(request):
    runner.skip_without_compiler(request.param)
    return lambda order="forward", seed=0: HostModule(SOURCE, order, seed, sanitize=request.param)


@pytest.fixture(scope="module")
def sanitized():
    runner.skip_without_compiler()
    return HostModule(SOURCE)


@pytest.fixture(scope="module")
def plain():
    runner.skip_without_compiler(sanitize=False)
    return HostModule(SOURCE, sanitize=False)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_reduction_is_exact_in_every_thread_order(make, order):
    """Sums through shared memory equal NumPy's in forward, reverse and random order."""
    values = torch.from_numpy(np.random.default_rng(0).integers(-50, 50, 1000).astype(np.float32))
    out = torch.full((8,), torch.nan)
    make(order).launch("sum_blocks", (8,), (128,), (values, out, np.int64(1000)))
    expected = np.pad(values.numpy(), (0, 24)).reshape(8, 128).sum(1)
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_and_votes_follow_the_cuda_guide(make, order):
    """Values of all shuffle and vote kinds for 32 lanes, by hand."""
    value = np.arange(32, dtype=np.int32) * 3 + 5
    lane = np.arange(32)
    out = torch.zeros(10, 32, dtype=torch.int32)
    make(order).launch("shuffles", (1,), (32,), (torch.from_numpy(value), out))
    got = out.numpy()
    np.testing.assert_array_equal(got[0], value[np.where(lane + 3 > 31, lane, lane + 3)])
    np.testing.assert_array_equal(got[1], value[np.where(lane - 3 < 0, lane, lane - 3)])
    np.testing.assert_array_equal(got[2], value[lane ^ 5])
    np.testing.assert_array_equal(got[3], np.full(32, value[7]))
    np.testing.assert_array_equal(got[4], value[np.where(lane % 8 + 3 > 7, lane, (lane + 3) % 32)])
    np.testing.assert_array_equal(got[5], value[lane // 8 * 8 + 2])
    assert not got[6].any()  # 3 i + 5 is never a multiple of three
    np.testing.assert_array_equal(got[7], np.full(32, 3))
    np.testing.assert_array_equal(got[8], value[np.where(lane < 16, lane ^ 1, lane ^ 2)])
    np.testing.assert_array_equal(got[9].view(np.uint32), np.uint32(0x11111111) << np.uint32(lane % 4))


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_reduction_in_double_is_exact(make, order):
    values = torch.arange(256, dtype=torch.float64)
    out = torch.zeros(8, dtype=torch.float64)
    make(order).launch("warp_sums", (2,), (128,), (values, out))
    np.testing.assert_array_equal(out.numpy(), values.numpy().reshape(8, 32).sum(1))


def test_an_inactive_lane_gives_nan(make):
    """A shuffle from a lane outside the warp's active threads must not give a plausible value."""
    out = torch.zeros(20)
    make().launch("partial_warp", (1,), (20,), (out,))
    np.testing.assert_array_equal(out.numpy(), [*range(2, 20), np.nan, np.nan])


def test_a_missing_barrier_changes_results_with_the_order(make):
    """Control of the harness: a kernel without its barrier must differ between orders of threads."""
    results = {}
    for order in ORDERS:
        results[order] = torch.zeros(64, dtype=torch.int32)
        make(order).launch("neighbour_without_barrier", (1,), (64,), (results[order],))
    assert not torch.equal(results["forward"], results["reverse"])
    assert not torch.equal(results["forward"], results["random"])


def test_blocks_run_in_the_requested_order(make):
    """A kernel whose last block wins shows forward, reverse and random orders."""
    last = {}
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2), ("random", 3)):
        out = torch.zeros(1, dtype=torch.int32)
        make(order, seed).launch("last_block_wins", (1000,), (1,), (out,))
        last[order, seed] = out.item()
    assert last["forward", 0] == 999
    assert last["reverse", 0] == 0
    assert len({last["random", seed] for seed in (1, 2, 3)} | {0, 999}) == 5


def test_a_seed_fixes_the_random_order(make):
    """Seed 7 repeats its order, and seed 8 gives another."""
    runs = []
    for seed in (7, 7, 8):
        out = torch.zeros(64, dtype=torch.int32)
        make("random", seed).launch("neighbour_without_barrier", (1,), (64,), (out,))
        runs.append(out.tolist())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_a_three_dimensional_grid_runs_once(make, order):
    out = torch.zeros(2 * 3 * 4, 3 * 5 * 2, dtype=torch.int32)
    make(order).launch("index_of_everything", (2, 3, 4), (3, 5, 2), (out,))
    np.testing.assert_array_equal(out.numpy(), 10000 * np.arange(24)[:, None] + np.arange(30))


def test_dynamic_shared_memory_has_the_size_of_the_launch(make):
    data = torch.arange(96, dtype=torch.float32)
    make("random").launch("reverse_dynamic", (1,), (96,), (data,), shared_bytes=96 * 4)
    np.testing.assert_array_equal(data.numpy(), np.arange(96)[::-1])


def test_shared_memory_is_nan_until_its_own_block_writes_it(make):
    """A block that reads what another one left must not see a plausible value."""
    out = torch.zeros(3)
    make().launch("stale_shared", (3,), (32,), (out, np.int32(0)))
    assert out.isnan().all()
    make().launch("stale_shared", (3,), (32,), (out, np.int32(1)))
    assert (out == 1).all()


def test_atomics_add_each_thread_once(make):
    counts = [torch.zeros(2, dtype=dtype) for dtype in (torch.int32, torch.int32, torch.float32, torch.float64)]
    make("random").launch("count", (3,), (50,), counts)
    assert [count[0].item() for count in counts] == [150, 300, 75, 37.5]
    assert counts[0][1] == 49


def test_half_and_bfloat16_round_as_numpy_and_torch_do(make):
    """200,000 random patterns, all halfway cases and the borders of both formats."""
    generator = np.random.default_rng(1)
    patterns = generator.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    # Halfway cases and the borders of both formats: overflow, subnormals, zeros, infinities.
    every_half = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    finite = every_half[:0x7C00]
    half_ties = np.concatenate([(finite[1:] + finite[:-1]) / 2, -(finite[1:] + finite[:-1]) / 2])
    edges = np.float32(
        [65504, 65519.99, 65520, 2**-24, 2**-25, 2**-26, 1.5 * 2**-25, 6.1e-5, 3.3e38, 3.4028235e38, 0, -0.0]
    )
    values = np.concatenate([patterns, every_half, ties, half_ties, edges])
    values = values[~np.isnan(values)]
    count = len(values)
    halves, brains = torch.zeros(count, dtype=torch.float16), torch.zeros(count, dtype=torch.bfloat16)
    args = (torch.from_numpy(values), halves, brains, np.int32(count))
    make().launch("narrow", (-(-count // 256),), (256,), args)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(halves.numpy().view(np.uint16), values.astype(np.float16).view(np.uint16))
    assert torch.equal(brains.view(torch.int16), torch.from_numpy(values).to(torch.bfloat16).view(torch.int16))


def test_every_half_pattern_widens_as_in_numpy_and_torch(make):
    """All 65536 patterns of float16 and bfloat16, with NaN and signed zero."""
    patterns = np.arange(2**16, dtype=np.uint16)
    halves = torch.from_numpy(patterns.view(np.float16).copy())
    brains = torch.from_numpy(patterns.view(np.int16).copy()).view(torch.bfloat16)
    out = torch.zeros(2, 2**16)
    make().launch("widen", (256,), (256,), (halves, brains, out, np.int32(2**16)))
    np.testing.assert_array_equal(out[0].numpy(), halves.numpy().astype(np.float32))  # NaN equals NaN
    np.testing.assert_array_equal(out[1].numpy(), brains.float().numpy())
    assert torch.equal(torch.signbit(out[0]), torch.signbit(halves))


def test_structs_and_null_pointers_arrive_unchanged(make):
    """A padded record, None, a bool and a byte reach the kernel with their values."""
    fields = np.dtype([("height", np.int32), ("width", np.int64), ("scale", np.float32)], align=True)
    out = torch.zeros(6, dtype=torch.float64)
    record = np.array((7, 2**40, 0.5), dtype=fields)[()]
    make().launch("by_value", (1,), (1,), (record, None, out, np.bool_(True), np.uint8(200)))
    assert out.tolist() == [7, 2.0**40, 0.5, 1, 1, 200]


def test_two_views_of_one_storage_stay_views(make):
    storage = torch.arange(20, dtype=torch.float32)
    make().launch("read_at", (1,), (1,), (storage[4:], storage[10:12], np.int32(3)))
    assert storage[10] == 7
    assert storage[7] == 7


def test_min_max_and_conversions_of_nan_match_the_gpu(make):
    """min and max ignore NaN, and NaN becomes the integer 0."""
    out = torch.zeros(5)
    make().launch("nan_rules", (1,), (1,), (np.float32(np.nan), out))
    assert out.tolist() == [2, 2, 0, -2, float(np.float32(2**31 - 1))]


def test_sixteen_byte_loads_of_half_tensors_copy_every_bit(make):
    source = torch.arange(256).to(torch.float16)
    target = torch.zeros(256, dtype=torch.float16)
    make().launch("copy16", (1,), (32,), (source, target))
    assert torch.equal(source, target)


def test_shared_memory_is_aligned_as_declared(make):
    out = torch.zeros(17, dtype=torch.int32)
    make("random").launch("shared_aligned", (1,), (8,), (out,))
    assert out.tolist() == [*range(8), *range(10, 18), 5]


def test_a_misaligned_sixteen_byte_load_is_reported(sanitized):
    source, target = torch.zeros(300, dtype=torch.float16), torch.zeros(256, dtype=torch.float16)
    with pytest.raises(HostKernelError, match="misaligned address"):
        sanitized.launch("copy16", (1,), (32,), (source[4:], target))
    with pytest.raises(HostKernelError, match="misaligned address"):
        sanitized.launch("shared_unaligned", (1,), (1,), (torch.zeros(1, dtype=torch.int32),))


@pytest.mark.parametrize("where", [10, -1])
def test_an_access_outside_a_tensor_is_reported_with_its_line(sanitized, where):
    with pytest.raises(HostKernelError, match=r"(?s)WRITE of size 4.*write_at .*module\.cu:\d+"):
        sanitized.launch("write_at", (1,), (1,), (torch.zeros(10), np.int32(where)))
    with pytest.raises(HostKernelError, match="READ of size 4"):
        sanitized.launch("read_at", (1,), (1,), (torch.zeros(10), torch.zeros(1), np.int32(where)))
    tensor = torch.zeros(10)
    sanitized.launch("write_at", (1,), (1,), (tensor, np.int32(9)))
    assert tensor[9] == 1


def test_an_access_outside_shared_memory_is_reported(sanitized):
    out = torch.zeros(1)
    sanitized.launch("shared_at", (1,), (1,), (out, np.int32(7)), shared_bytes=32)
    assert out == 2
    with pytest.raises(HostKernelError, match=r"heap-buffer-overflow|out of bounds"):
        sanitized.launch("shared_at", (1,), (1,), (out, np.int32(8)), shared_bytes=64)
    with pytest.raises(HostKernelError, match="heap-buffer-overflow"):
        sanitized.launch("shared_at", (1,), (1,), (out, np.int32(7)), shared_bytes=28)


@pytest.mark.parametrize("order", ORDERS)
def test_a_barrier_one_thread_skips_is_reported(make, order):
    """The error counts the waiting threads and names the one that returned."""
    out = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(
        HostKernelError, match=r"(?s)diverged.*31 wait in __syncthreads.*1 returned.*thread \(5, 0, 0\)"
    ):
        make(order).launch("leaves_early", (1,), (32,), (out,))


@pytest.mark.parametrize("order", ORDERS)
def test_different_barriers_of_one_block_are_reported(make, order):
    """Half of the block waits at each of two barriers."""
    out = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(HostKernelError, match=r"(?s)diverged.*16 wait in __syncthreads.*16 wait in __syncthreads"):
        make(order).launch("two_places", (1,), (32,), (out,))


def test_a_shuffle_without_half_the_warp_is_reported(make):
    """A lane that is missing or not in the mask has no defined value."""
    out = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(HostKernelError, match="diverged"):
        make().launch("half_a_warp", (1,), (32,), (out,))
    with pytest.raises(HostKernelError, match=r"thread \(1, 0, 0\).*its own lane is not in the mask"):
        make().launch("outside_its_mask", (1,), (32,), (out,))


def test_a_launch_works_after_a_diverged_one(plain):
    """Threads left over from the failed launch must not run on."""
    out = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(HostKernelError):
        plain.launch("leaves_early", (1,), (32,), (out,))
    out = torch.zeros(24, 30, dtype=torch.int32)
    plain.launch("index_of_everything", (2, 3, 4), (3, 5, 2), (out,))
    np.testing.assert_array_equal(out.numpy(), 10000 * np.arange(24)[:, None] + np.arange(30))


def test_a_float_that_exceeds_int_is_reported(sanitized):
    """NaN, 1e20 and infinity have no int; the GPU would saturate silently."""
    out = torch.zeros(1, dtype=torch.int32)
    sanitized.launch("to_int", (1,), (1,), (np.float32(-7.9), out))
    assert out == -7
    for value in (np.nan, 1e20, np.inf):
        with pytest.raises(HostKernelError, match="outside the range of representable values"):
            sanitized.launch("to_int", (1,), (1,), (np.float32(value), out))


def test_signed_overflow_is_reported(sanitized):
    with pytest.raises(HostKernelError, match="signed integer overflow"):
        sanitized.launch("overflow", (1,), (1,), (np.int32(2**30), torch.zeros(1, dtype=torch.int32)))


def test_arguments_of_the_wrong_width_are_refused(make):
    """int64 for int, double for float, missing arguments and unknown kernels raise an error."""
    module, data = make(), torch.zeros(4)
    for args, message in (
        ((data, np.int64(0)), "argument 1: the number is not of the type"),
        ((data, np.float32(0)), "argument 1: the number is not of the type"),
        ((data.double(), np.int32(0)), "argument 0: the tensor's elements"),
        ((data,), "takes 2 arguments, not 1"),
        ((np.int32(1), np.int32(0)), "argument 0: the kernel declares a pointer"),
    ):
        with pytest.raises(HostKernelError, match=message):
            module.launch("write_at", (1,), (1,), args)
    with pytest.raises(TypeError, match="bare int"):
        module.launch("write_at", (1,), (1,), (data, 0))
    with pytest.raises(HostKernelError, match="no such kernel"):
        module.launch("writeat", (1,), (1,), (data, np.int32(0)))


def test_an_empty_grid_is_refused(make):
    with pytest.raises(ValueError, match="outside 1 to"):
        make().launch("write_at", (0,), (1,), (torch.zeros(1), np.int32(0)))


def test_a_compile_error_names_the_line():
    runner.skip_without_compiler(sanitize=False)
    with pytest.raises(HostKernelError, match=r"common\.cuh:2:"):
        HostModule('#line 1 "common.cuh"\n\nint x = y;\nextern "C" __global__ void k() {}', sanitize=False)


def test_unsupported_shared_declarations_are_refused():
    """Two shared variables in one statement cannot be rewritten for the host."""
    with pytest.raises(HostKernelError, match="one shared variable a statement"):
        runner.rewrite('extern "C" __global__ void k() { __shared__ int a[2], b[2]; }')
    assert "__shared__" not in runner.rewrite('extern "C" __global__ void k() { int a; /* not __shared__ */ }')


def test_without_a_compiler_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    assert runner.compiler_problem.__wrapped__() == "no g++ to compile the kernels for the CPU"


def test_switching_threads_costs_less_than_a_microsecond(plain):
    """The harness runs each CUDA thread as a fibre; slower switches would make the suite long."""
    data = torch.arange(64 * 128, dtype=torch.float32)
    plain.launch("two_barriers", (64,), (128,), (data,))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        plain.launch("two_barriers", (64,), (128,), (data,))
        seconds.append(time.process_time() - start)
    assert min(seconds) / (64 * 128 * 3) < 1e-6  # each thread runs three stretches, in and out
