"""The kernels' machine code: from the user's cache folder, or compiled now and kept there."""

from __future__ import annotations

import hashlib
from functools import cache as memoized
from typing import Any

from dcnlab.ops.cuda import cache
from dcnlab.ops.cuda.compile import compile_cubin, compile_ptx, options

_DIGEST_BYTES = 32


def load(source: str) -> Any:
    """The CuPy module of a text on the current device.

    Args:
        source: from `compile.source_text`.

    Raises:
        RuntimeError: NVRTC knows no architecture that this GPU could run.
        KernelCompileError: NVRTC refuses the text.
    """
    from cupy.cuda import Device
    from cupy.cuda.function import Module

    module = Module()
    module.load(image(source, int(Device().compute_capability)))
    return module


@memoized
def image(source: str, arch: int) -> bytes:
    """Machine code of a text for one architecture; PTX, which the driver compiles, where NVRTC is older than the GPU.

    Args:
        source: from `compile.source_text`.
        arch: compute capability times ten.
    """
    name = f"kernels/{_key(source, arch)}"
    code = _checked(cache.read(name))
    if code is None:
        code = _compiled(source, arch)
        cache.write(name, hashlib.sha256(code).digest() + code)
    return code


def _key(source: str, arch: int) -> str:
    """A file's name: a hash of all that the code depends on."""
    compiled_with = options(f"sm_{arch}")
    import cupy  # after `options`, which handles errors of CuPy's cache folder
    from cupy_backends.cuda.libs import nvrtc

    parts = (source, *compiled_with, f"NVRTC {nvrtc.getVersion()}", f"CuPy {cupy.__version__}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _checked(content: bytes | None) -> bytes | None:
    """What follows a file's digest; None where the file is broken."""
    if content is None:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _compiled(source: str, arch: int) -> bytes:
    from cupy_backends.cuda.libs import nvrtc

    known = sorted(nvrtc.getSupportedArchs())
    if arch in known:
        return compile_cubin(source, arch).cubin
    older = [other for other in known if other < arch]
    if not older:
        major, minor = nvrtc.getVersion()
        raise RuntimeError(
            f"this GPU has compute capability {arch / 10}, and NVRTC {major}.{minor} compiles for {known[0] / 10} and "
            f"newer: it needs torch and CuPy for an older CUDA"
        )
    return compile_ptx(source, older[-1])
