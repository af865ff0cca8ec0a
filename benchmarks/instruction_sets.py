"""The instruction sets that numba, torch, oneDNN and MKL use in this process, as each of them says."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Iterator


def instruction_sets() -> dict[str, str]:
    """What numba, torch, oneDNN and MKL really use in this process, as each of them says."""
    import torch
    from numba.core.registry import cpu_target

    with _printed() as text:
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            torch.ops.mkldnn._linear_pointwise(torch.zeros(64, 64), torch.zeros(64, 64), None, "none", [], "")
        with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
            torch.zeros(64, 64, dtype=torch.float64) @ torch.zeros(64, 64, dtype=torch.float64)
    matches = {"oneDNN": re.search(r"cpu,isa:(.*)", text[0]), "MKL": re.search(r"architecture (.*) enabled", text[0])}
    return {
        "numba": " ".join(cpu_target.target_context.codegen().magic_tuple()[1:]),
        "torch": torch.backends.cpu.get_cpu_capability(),
        **{name: match[1].strip() if match else "unknown" for name, match in matches.items()},
    }


@contextlib.contextmanager
def _printed() -> Iterator[list[str]]:
    """What libraries print to the standard output meanwhile; one text, there at the end."""
    text: list[str] = []
    with tempfile.TemporaryFile() as file:
        libc, outside = ctypes.CDLL(None), os.dup(1)
        libc.fflush(None)
        os.dup2(file.fileno(), 1)
        try:
            yield text
        finally:
            libc.fflush(None)
            os.dup2(outside, 1)
            os.close(outside)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
