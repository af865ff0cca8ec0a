"""Runs the text of a CUDA module on the CPU: `HostModule` in the place of `dcnlab.ops.cuda.launch.CudaModule`.

The text is compiled by g++ with `include/host_cuda.h` before it. Sanitized, each launch is a program of its own under
AddressSanitizer and UBSan, every tensor's storage an allocation of its exact size; plain, the kernels are loaded into
this process and work on the tensors' own memory, which is faster and checks less; counted, they do so too, and note
every access (`counting.py`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dcnlab.ops.cuda.kernel_arguments import Argument, check_geometry, check_value
from dcnlab.ops.cuda.source import Prelude, source_text

INCLUDE = Path(__file__).parent / "include"
ORDERS = ("forward", "reverse", "random")
"""In which the threads of a block, and the blocks, take their turns."""

_FLAGS = (
    "-std=c++17",
    "-fno-strict-aliasing",  # as nvcc: 16-byte loads view tensors of any type
    "-ffp-contract=off",
    "-Wall",
    "-Werror=return-type",
    "-Werror=uninitialized",
    "-Wno-unknown-pragmas",
    "-Wno-unused",
    f"-I{INCLUDE}",
)
_PLAIN = ("-O1", "-fPIC")
# -Og compiles in a third of -O1's time under the sanitizers, and the kernels' lines stay right in their reports.
_SANITIZED = ("-Og", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
# Every load and store calls host_counting.cpp. -O2 drops those that the GPU's compiler drops; 16-byte loads stay whole.
_COUNTED = (
    *("-O2", "-fPIC", "-fno-tree-sra", "-fno-tree-vectorize", "-fno-store-merging", "-fsanitize=kernel-address"),
    *("--param=asan-instrumentation-with-call-threshold=0", "--param=asan-stack=0", "--param=asan-globals=0"),
    *("-DDCNLAB_COUNTED", "-include", "host_counted.h"),
)
_FLAGS_OF = {"plain": _PLAIN, "sanitized": _SANITIZED, "counted": _COUNTED}
_SANITIZER_SETTINGS = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
_TIMEOUT_SECONDS = 600

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\(',
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_SHARED = re.compile(
    r"(?P<dynamic>extern\s+)?__shared__\s+(?P<aligned>(?:__align__|alignas)\s*\([^()]*\)\s*)?"
    r"(?P<type>[\w:]+(?:\s+[\w:]+)*?(?:\s*<[^;]*>)?[\s*]+)(?P<name>\w+)\s*(?P<dims>(?:\[[^\]]*\]\s*)*);"
)

_LETTERS = {
    torch.float64: "d",
    torch.float32: "f",
    torch.float16: "e",
    torch.bfloat16: "E",
    torch.int64: "q",
    torch.int32: "i",
    torch.int16: "h",
    torch.int8: "b",
    torch.uint8: "B",
    torch.bool: "?",
}


class HostKernelError(RuntimeError):
    """The text does not compile, a launch does not fit its kernel, the threads diverged, or a sanitizer spoke up."""


class HostModule:
    """The kernels of one text, on CPU tensors.

    Args:
        source: the whole text, as `dcnlab.ops.cuda.source.source_text` gives it.
        order: forward, reverse or random.
        seed: of the random order.
        sanitize: run each launch under AddressSanitizer and UBSan.
        launched: where to note the name of each kernel launched.
    """

    _kind = "plain"
    """How the text is built if not sanitized."""

    def __init__(
        self,
        source: str,
        order: str = "forward",
        seed: int = 0,
        sanitize: bool = True,
        launched: list[str] | None = None,
    ) -> None:
        self.launched = [] if launched is None else launched
        self.order, self.seed, self.sanitize = ORDERS.index(order), seed, sanitize
        self._built = build(source, "sanitized" if sanitize else self._kind)
        self._run = None if sanitize else _load(self._built)

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """As `CudaModule.launch`; back when the kernel is done.

        Raises:
            HostKernelError: with the report of what went wrong.
        """
        check_geometry(kernel, grid, block)
        for position, arg in enumerate(args):
            if isinstance(arg, torch.Tensor):
                if arg.device.type != "cpu":
                    raise ValueError(f"{kernel}: argument {position} is a tensor on {arg.device}, not on the CPU")
            elif arg is not None:
                check_value(kernel, position, arg)
        self.launched.append(kernel)
        sizes = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
        header = struct.pack("<6IQiIQ", *sizes, shared_bytes, self.order, len(args), self.seed)
        problem = self._run_here(kernel, header, args) if self._run else self._run_apart(kernel, header, args)
        if problem:
            raise HostKernelError(f"{kernel}: {problem}")

    def _run_here(self, kernel: str, header: bytes, args: Sequence[Argument]) -> str:
        records, alive = [], []
        for arg in args:
            code, element, value = _encode(arg)
            if code == "p":
                value = struct.pack("<Q", 0 if arg is None else arg.data_ptr())
            # A copy that C++ may read as the kernel's type: a buffer of malloc's alignment.
            alive.append(ctypes.create_string_buffer(value, len(value)))
            records.append(struct.pack("<QQii", ctypes.addressof(alive[-1]), len(value), ord(code), element))
        table = ctypes.create_string_buffer(b"".join(records) or b"\0")
        launch = ctypes.create_string_buffer(header + struct.pack("<Q", ctypes.addressof(table)))
        problem = self._run(kernel.encode(), launch)
        return problem.decode() if problem else ""

    def _run_apart(self, kernel: str, header: bytes, args: Sequence[Argument]) -> str:
        storages: dict[int, torch.UntypedStorage] = {}
        for arg in args:
            if isinstance(arg, torch.Tensor):
                storages.setdefault(arg.untyped_storage().data_ptr(), arg.untyped_storage())
        numbers = {address: number for number, address in enumerate(storages)}
        request = [struct.pack("<Q", len(kernel)), kernel.encode(), header, struct.pack("<Q", len(storages))]
        for storage in storages.values():
            request += [struct.pack("<Q", storage.nbytes()), _memory(storage)]
        for arg in args:
            code, element, value = _encode(arg)
            number = -1
            if isinstance(arg, torch.Tensor):
                start = arg.untyped_storage().data_ptr()
                number, value = numbers[start], struct.pack("<Q", arg.data_ptr() - start if arg.numel() else 0)
            request += [struct.pack("<iiQ", ord(code), element, len(value)), value]
            if code == "p":
                request.append(struct.pack("<q", number))
        done = subprocess.run(
            [self._built],
            input=b"".join(request),
            capture_output=True,
            env={**os.environ, **_SANITIZER_SETTINGS},
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            return done.stderr.decode(errors="replace").strip() or f"the program ended with status {done.returncode}"
        offset = 0
        for storage in storages.values():
            ctypes.memmove(storage.data_ptr(), done.stdout[offset : offset + storage.nbytes()], storage.nbytes())
            offset += storage.nbytes()
        return ""


class HostKernels:
    """In the place of `dcnlab.ops.cuda.launch.module`: gives an operator host modules, and lists what it launched."""

    def __init__(self, order: str = "forward", seed: int = 0, sanitize: bool = True) -> None:
        self.order, self.seed, self.sanitize = order, seed, sanitize
        self.launched: list[str] = []
        """Kernel names, in the order of their launches."""

    def __call__(self, source_file: str, prelude: Prelude) -> HostModule:
        """The module of one file in `cuda_kernels/` in one variant."""
        return HostModule(source_text(source_file, prelude), self.order, self.seed, self.sanitize, self.launched)


def rewrite(source: str) -> str:
    """The text as g++ takes it: `__shared__` declarations as calls of the runtime, and the table of kernels at its end.

    Raises:
        HostKernelError: a shared variable is declared in a form that is not understood, or the text has no kernel.
    """

    def shared(match: re.Match[str]) -> str:
        kind, name = match["type"].strip(), match["name"]
        if match["dynamic"]:
            return f"{kind}* const {name} = static_cast<{kind}*>(dcnlab_host::dynamic_shared_memory());"
        aligned = (match["aligned"] or "").replace("alignas", "__align__")
        return (
            f"typedef {aligned}{kind} {name}_shared_type{match['dims']}; {name}_shared_type& {name} = "
            f"dcnlab_host::shared_variable<{name}_shared_type>(alignof({name}_shared_type), [] {{}});"
        )

    code = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), source)
    kernels = _KERNEL.findall(code)
    if not kernels:
        raise HostKernelError('the text has no extern "C" __global__ void kernel')
    code = _SHARED.sub(shared, code)
    left = re.search(r"[^\n]*__shared__[^\n]*", code)
    if left:
        raise HostKernelError(f"declare one shared variable a statement, without an initial value: {left[0].strip()}")
    table = "".join(f"    DCNLAB_KERNEL({name}),\n" for name in kernels)
    return (
        f'#include "host_launch.h"\n#line 1 "module.cu"\n{code}\n'
        f"namespace dcnlab_host {{\nconst Kernel kernels[] = {{\n{table}    {{nullptr, nullptr}},\n}};\n}}\n"
    )


@cache
def build(source: str, kind: str) -> Path:
    """Compile a text, or take what an earlier call made of it.

    Args:
        source: the text.
        kind: sanitized, which gives a program, or plain or counted, which give a shared library.

    Raises:
        HostKernelError: with g++'s messages.
    """
    compiler, flags = _compiler(), (*_FLAGS, *_FLAGS_OF[kind])
    own_flags = (*_FLAGS, *_PLAIN) if kind == "counted" else flags  # only the kernels' accesses are counted
    files = {"sanitized": ("host_runtime", "host_main"), "counted": ("host_runtime", "host_counting")}
    objects = [_object(name, compiler, own_flags) for name in files.get(kind, ("host_runtime",))]
    shared = () if kind == "sanitized" else ("-shared", "-Wl,-Bsymbolic")
    code = rewrite(source)
    if kind == "counted":  # one instruction for each corner or element, as on the GPU
        code = re.sub(r"#pragma unroll[ \t]*$", "#pragma GCC unroll 64", code, flags=re.MULTILINE)
    return _cached(
        "module" if kind == "sanitized" else "module.so",
        compiler,
        flags,
        code,
        lambda out: [*shared, "-x", "c++", "-", "-x", "none", *map(str, objects), "-o", str(out)],
    )


def _object(name: str, compiler: str, flags: Sequence[str]) -> Path:
    source = str(INCLUDE / f"{name}.cpp")
    return _cached(f"{name}.o", compiler, flags, "", lambda out: ["-c", source, "-o", str(out)])


@cache
def compiler_problem(sanitize: bool = True) -> str | None:
    """Why kernels cannot run on this machine's CPU: one line, or None."""
    if shutil.which("g++") is None:
        return "no g++ to compile the kernels for the CPU"
    try:
        build('extern "C" __global__ void nothing() {}', "sanitized" if sanitize else "plain")
    except HostKernelError as error:
        return f"g++ cannot build the kernels for the CPU: {str(error).splitlines()[0]}"
    return None


def skip_without_compiler(sanitize: bool = True) -> None:
    """Skip the running test, with the reason, where kernels cannot run on the CPU."""
    import pytest  # here, because the benchmarks use this file too

    problem = compiler_problem(sanitize)
    if problem:
        pytest.skip(problem)


@cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _headers() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(INCLUDE.iterdir()))


@cache
def _folder() -> Path:
    """A private folder for what g++ makes; it outlives the process, so that the next run compiles nothing."""
    folder = Path(tempfile.gettempdir()) / f"dcnlab-host-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise HostKernelError(f"{folder} belongs to someone else")
    return folder


def _cached(kind: str, compiler: str, flags: Sequence[str], text: str, arguments: Callable[[Path], list[str]]) -> Path:
    key = hashlib.sha256("\0".join([compiler, *flags, text]).encode() + _headers()).hexdigest()[:32]
    made = _folder() / f"{key}-{kind}"
    if not made.exists():
        # Under a name of its own until it is whole: other test processes may be making the same.
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            out = Path(scratch) / kind
            command = ["g++", *flags, *arguments(out)]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise HostKernelError(f"g++ failed\n{done.stderr}")
            out.replace(made)
    return made


@cache
def _load(library: Path) -> Callable[[bytes, object], bytes | None]:
    run = ctypes.CDLL(str(library)).dcnlab_run
    run.argtypes, run.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_char_p
    return run


def _memory(storage: torch.UntypedStorage) -> bytes:
    return ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""


def _encode(arg: Argument) -> tuple[str, int, bytes]:
    """An argument's letter, its elements' letter as a number, and its bytes (eight zeros for a pointer)."""
    if arg is None:
        return "p", 0, bytes(8)
    if isinstance(arg, torch.Tensor):
        return "p", ord(_LETTERS[arg.dtype]), bytes(8)
    return ("V" if arg.dtype.names else arg.dtype.char), 0, np.asarray(arg).tobytes()
