"""The counts of memory accesses that kernels make on the CPU, against cases worked by hand."""

import numpy as np
import pytest
import torch
from conv_cases import Case, by_kernels
from counting import CountedKernels, CountedModule
from runner import HostKernels, skip_without_compiler

SOURCE = """
using real = dcnlab_host::Counted<float>;
struct alignas(16) Four { real value[4]; };

// Thread i reads element i * stride and writes element i.
extern "C" __global__ void __launch_bounds__(64, 2)
strided(const real* __restrict__ in, real* __restrict__ out, int stride) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i * stride];
}

extern "C" __global__ void wide(const real* __restrict__ in, real* __restrict__ out) {
    reinterpret_cast<Four*>(out)[threadIdx.x] = reinterpret_cast<const Four*>(in)[threadIdx.x];
}

// Of every eight elements odd threads skip the even ones: a loop whose accesses the threads do not all make.
extern "C" __global__ void
skipping(const real* __restrict__ in, const int* __restrict__ skips, real* __restrict__ out) {
    real sum = 0;
    for (int i = 0; i < 8; ++i) {
        if (skips[i] && threadIdx.x % 2) continue;
        sum += in[32 * i + threadIdx.x] * real(2);
    }
    out[threadIdx.x] = sum / real(3);
}

extern "C" __global__ void through_shared(const real* __restrict__ in, real* __restrict__ out) {
    __shared__ real all[64];
    all[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    real sum = all[63 - threadIdx.x];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    out[threadIdx.x] = sum;
}
"""


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler(sanitize=False)


def count(kernel, blocks, threads, *args):
    launches = []
    CountedModule(SOURCE, launches).launch(kernel, (blocks,), (threads,), args)
    return launches[0]


@pytest.mark.parametrize(("stride", "sectors", "lines"), [(0, 1, 1), (1, 4, 1), (2, 8, 2), (8, 32, 8), (32, 32, 32)])
def test_warp_requests_touch_the_sectors_of_their_stride(stride, sectors, lines):
    """Strides 0 to 32: sectors and cache lines of a load equal a count by hand."""
    in_, out = torch.zeros(128 * 32), torch.zeros(128)
    found = count("strided", 2, 64, in_, out, np.int32(stride))
    load, store = found.loads["in"], found.stores["out"]
    assert (load.requests, load.bytes) == (4, 4 * 128)
    assert (load.sectors, load.lines) == (4 * sectors, 4 * lines)
    assert (store.sectors, store.lines, store.distinct) == (16, 4, 16)
    assert list(found.loads) == ["in"]
    assert list(found.stores) == ["out"]


def test_a_shared_sector_counts_per_request_block_and_kernel():
    """All threads read one sector: 6 requests, 3 blocks, 1 distinct sector."""
    found = count("strided", 3, 64, torch.zeros(1), torch.zeros(192), np.int32(0)).loads["in"]
    assert (found.bytes, found.sectors, found.of_blocks, found.distinct) == (4 * 192, 6, 3, 1)


def test_a_16_byte_load_per_thread_is_one_request():
    """32 threads load 512 bytes: one request, 16 sectors, 4 lines."""
    found = count("wide", 1, 32, torch.zeros(128), torch.zeros(128))
    for access in (found.loads["in"], found.stores["out"]):
        assert (access.requests, access.bytes, access.sectors, access.lines) == (1, 512, 16, 4)


def test_diverging_threads_stay_in_step():
    """Threads that skip a loop's body do not split the warp's later requests."""
    skips = torch.tensor([1, 0, 1, 0, 0, 0, 1, 0], dtype=torch.int32)
    found = count("skipping", 1, 32, torch.zeros(256), skips, torch.zeros(32))
    load = found.loads["in"]
    assert load.requests == 8
    assert load.bytes == 4 * (5 * 32 + 3 * 16)
    assert load.sectors == 8 * 4
    assert (found.additions, found.multiplications, found.divisions) == (5 * 32 + 3 * 16, 5 * 32 + 3 * 16, 32)


def test_shared_memory_barriers_and_shuffles_are_separate():
    """Their counts must not enter the bytes of global memory."""
    found = count("through_shared", 2, 64, torch.zeros(64), torch.zeros(64))
    assert found.shared_loads.bytes == found.shared_stores.bytes == 2 * 64 * 4
    assert found.shared_loads.requests == 2 * 2
    assert (found.barriers, found.warp_operations, found.operations) == (128, 128, 128)
    assert found.bytes("bytes") == 2 * 2 * 64 * 4
    assert found.bytes("distinct") == 2 * 64 * 4


def test_counting_changes_no_result():
    """Kernels with counters give the bits of the plain ones."""
    case = Case(channels=8, modulated=True, dtype=torch.float32)
    counted, plain = (by_kernels(case, modules) for modules in (CountedKernels(), HostKernels(sanitize=False)))
    for name, value in plain.items():
        assert value is None or torch.equal(value, counted[name])


def test_the_sample_kernel_reads_each_corner_once():
    """Bytes loaded and stored by the kernel equal corners, offsets and columns."""
    case = Case(batch=1, channels=16, filters=4, height=6, width=6, padding=(0, 0), reach=0.01, dtype=torch.float32)
    kernels = CountedKernels()
    by_kernels(case, kernels)
    sample = kernels.launches[0]
    rows = 4 * 4 * 9  # all on the map, with four corners each, but where an offset leaves it
    assert sample.kernel == "sample"
    assert sample.stores["columns"].bytes == rows * 16 * 4
    assert sample.loads["pixels"].bytes % (16 * 4) == 0
    assert 0.8 * 4 * rows <= sample.loads["pixels"].bytes // (16 * 4) <= 4 * rows
    assert sample.loads["shift"].bytes == 2 * rows * 4
