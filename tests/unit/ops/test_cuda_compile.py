"""The kernels' texts, compiled by NVRTC without a GPU."""

import importlib
import os
import pkgutil
import re

import pytest
import torch

import dcnlab.ops.cuda
from dcnlab.ops.cuda import source
from dcnlab.ops.cuda.compile import (
    KernelCompileError,
    KernelResources,
    compile_cubin,
    nvrtc_problem,
    parse_resources,
)
from dcnlab.ops.cuda.source import ARCHITECTURES, C_TYPES, Variant, prelude_text, source_text

needs_nvrtc = pytest.mark.skipif(nvrtc_problem() is not None, reason=str(nvrtc_problem()))


def _variants() -> list[Variant]:
    found = []
    for info in pkgutil.iter_modules(dcnlab.ops.cuda.__path__):
        room = importlib.import_module(f"dcnlab.ops.cuda.{info.name}")
        found += room.variants() if hasattr(room, "variants") else []
    return found


VARIANTS = _variants()


REGISTERS = {
    **{"sample": 80, "sample_and_count": 80, "places_backward": 80, "gather": 64, "entries": 80},
    **{"depthwise": 80, "depthwise_places_backward": 96, "depthwise_gather": 80, "fused": 128},
    **{"pool": 168, "offset_backward": 168, "list_bins": 128, "input_backward": 96},
    **{"attend": 80, "attend_backward": 96, "attention_entries": 80, "attention_sums": 64, "attention_gather": 80},
}
"""Most registers of a thread, by kernel: a multiprocessor holds 1,024 threads of 64, 512 of 128, 384 of 168."""
IN_DOUBLE = {"input_backward": 128}
"""The same where coordinates and sums are double."""

EVERY = 90
"""The architecture for which every variant compiles: that of the GPU on which the suite runs."""


def _values(variant: Variant) -> set[tuple[str, str, object]]:
    """What decides a variant's code: each value of its prelude, in its file."""
    return {(variant.source_file, name, value) for name, value in variant.prelude.items()}


def _cover(variants: list[Variant]) -> list[Variant]:
    """Few of the variants that have every value of every file's preludes; main ones and wide vectors come first."""
    missing = set().union(*map(_values, variants))
    chosen = []
    while missing:
        chosen.append(max(variants, key=lambda v: (len(_values(v) & missing), v.main, v.prelude["VEC"])))
        missing -= _values(chosen[-1])
    return chosen


def _compiled_for(arch: int) -> list[Variant]:
    """The variants that the suite compiles for an architecture."""
    able = [variant for variant in VARIANTS if variant.least_architecture <= arch]
    return able if arch == EVERY or "DCNLAB_ALL_VARIANTS" in os.environ else _cover(able)


@needs_nvrtc
@pytest.mark.parametrize(
    ("variant", "arch"),
    [
        pytest.param(variant, arch, id=f"{variant.label}-{arch}")
        for arch in ARCHITECTURES
        for variant in _compiled_for(arch)
    ],
)
def test_every_variant_compiles_and_stays_in_registers(variant, arch):
    """No kernel of any variant uses local memory or more registers than REGISTERS allows.

    Every variant compiles for sm_90; for the others each kernel does, with each value of its prelude.
    DCNLAB_ALL_VARIANTS=1 and benchmarks/kernels.py compile all for all.
    """
    report = compile_cubin(source_text(variant.source_file, variant.prelude), arch)
    assert report.cubin.startswith(b"\x7fELF")
    assert not report.warnings
    assert report.kernels
    assert {name: used.local_memory for name, used in report.kernels.items() if used.local_memory} == {}
    double = variant.prelude["real"] == "double"
    limits = {name: IN_DOUBLE.get(name, most) if double else most for name, most in REGISTERS.items()}
    assert {name: used.registers for name, used in report.kernels.items() if used.registers > limits[name]} == {}


def test_every_kernel_file_has_a_variant_on_the_main_path():
    """A .cu file that no variant compiles would be untested."""
    files = {path.name for path in source.kernel_folder().glob("*.cu")}
    assert files
    assert {variant.source_file for variant in VARIANTS} == files
    assert {variant.source_file for variant in VARIANTS if variant.main} == files


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture_gets_every_value_of_a_prelude(arch):
    """Every type, vector width and tile of every kernel file that the GPU can run compiles for it."""
    able = [variant for variant in VARIANTS if variant.least_architecture <= arch]
    compiled = {(v.source_file, *item) for v in _compiled_for(arch) for item in v.prelude.items()}
    assert compiled == {(v.source_file, *item) for v in able for item in v.prelude.items()}


def test_variants_are_listed_once():
    """Two variants of the same text would compile and test the same kernel twice."""
    assert len({source_text(variant.source_file, variant.prelude) for variant in VARIANTS}) == len(VARIANTS)


def test_kernel_files_include_no_other_file():
    """The cache's key is the text alone, so an #include would hide a change from it."""
    for path in source.kernel_folder().iterdir():
        assert not re.search(r"^\s*#\s*include", path.read_text(), re.MULTILINE), path.name


def test_a_prelude_becomes_aliases_and_constants_in_order():
    lines = prelude_text({"scalar_t": "__half", "KH": 3, "FLAG": True, "LIMIT": 2**31, "LOW": -(2**31)}).splitlines()
    assert lines[-5:] == [
        "using scalar_t = __half;",
        "constexpr int KH = 3;",
        "constexpr int FLAG = 1;",
        "constexpr long long LIMIT = 2147483648;",
        "constexpr long long LOW = -2147483648;",
    ]
    with pytest.raises(TypeError, match="gamma: a prelude holds type names"):
        prelude_text({"gamma": 0.1})


def test_source_text_joins_prelude_common_and_kernels(tmp_path, monkeypatch):
    """#line directives name the files, so that a compiler's message points to the right line."""
    (tmp_path / "common.cuh").write_text("struct Common {};")
    (tmp_path / "pool.cu").write_text("struct Pool {};")
    monkeypatch.setattr(source, "kernel_folder", lambda: tmp_path)
    text = source_text("pool.cu", {"KH": 3})
    assert text.endswith(
        'constexpr int KH = 3;\n#line 1 "common.cuh"\nstruct Common {};\n#line 1 "pool.cu"\nstruct Pool {};\n'
    )


# What ptxas 13.0 printed for two kernels of which the first spills, calls a function and uses shared memory.
_LOG = """module.cu(3): warning #177-D: variable "unused" was declared but never referenced
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
ptxas         .     256 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Function properties for _Z6helperi
ptxas         .     16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 1 barriers, 256 bytes cumulative stack size, 88 bytes smem, 372 bytes cmem[0]
ptxas info    : Compile time = 2.478 ms
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""


def test_ptxas_reports_are_read_kernel_by_kernel():
    """A kept log: registers, shared memory, stack and spills of each kernel."""
    kernels = parse_resources(_LOG)
    assert kernels == {
        "first": KernelResources(registers=22, shared=88, stack=272, spill_stores=12, spill_loads=8),
        "second": KernelResources(registers=12, shared=0, stack=0, spill_stores=0, spill_loads=0),
    }
    assert [used.local_memory for used in kernels.values()] == [292, 0]
    with pytest.raises(ValueError, match="another form"):
        parse_resources("Compiling entry function 'k' for 'sm_90'\nnothing else")


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_spills_and_indexed_arrays_are_reported_on_each_gpu(arch):
    """A kernel with local memory, one with shared memory and one without are reported so on each architecture."""
    source = """
extern "C" __global__ void lean(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
extern "C" __global__ void indexed(const int* in, float* out) {
    float values[64];
    for (int i = 0; i < 64; ++i) values[in[i]] = float(i);
    out[threadIdx.x] = values[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024) crowded(const float* in, float* out) {
    float values[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) values[i] = in[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 128; ++i) out[i * 1024 + threadIdx.x] = values[127 - i];
}
extern "C" __global__ void shares(float* out) {
    __shared__ float values[100];
    values[threadIdx.x] = out[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = values[99 - threadIdx.x];
}
"""
    report = compile_cubin(source, arch)
    assert set(report.kernels) == {"lean", "indexed", "crowded", "shares"}
    assert report.kernels["lean"].local_memory == 0
    assert report.kernels["indexed"].stack == 256
    assert report.kernels["crowded"].spill_stores > 0
    assert report.kernels["crowded"].registers <= 64  # a multiprocessor has 65,536 of them
    assert report.kernels["shares"].shared >= 400  # some architectures reserve 1 KiB more


@needs_nvrtc
@pytest.mark.parametrize("dtype", C_TYPES, ids=str)
def test_the_toolkit_headers_come_with_the_wheels(dtype):
    """cuda_fp16.h and cuda_bf16.h are needed at run time, and no CUDA toolkit may be."""
    source = prelude_text({"scalar_t": C_TYPES[dtype]}) + 'extern "C" __global__ void k(scalar_t* out) { *out = 1.5f; }'
    for arch in ARCHITECTURES:
        assert set(compile_cubin(source, arch).kernels) == {"k"}


@needs_nvrtc
def test_a_compile_error_names_file_and_line():
    with pytest.raises(KernelCompileError, match=r'(?s)sm_90.*common\.cuh\(2\): error: identifier "y" is undefined'):
        compile_cubin('#line 1 "common.cuh"\n\nint x = y;', 90)


@needs_nvrtc
def test_a_compiler_warning_is_listed():
    report = compile_cubin('extern "C" __global__ void k() { int unused = 3; }', 90)
    assert len(report.warnings) == 1
    assert "never referenced" in report.warnings[0]


def test_dtypes_of_the_contract_have_a_c_type():
    assert list(C_TYPES) == [torch.float64, torch.float32, torch.float16, torch.bfloat16]
