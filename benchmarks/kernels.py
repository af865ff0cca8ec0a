"""What the compiler makes of the CUDA kernels, without a GPU: registers, occupancy, spills and the mix of instructions.

    python benchmarks/kernels.py --arch 80 90 --out benchmarks/results/kernels.json

The main variants are compiled by NVRTC as CuPy would; the instructions are counted in nvdisasm's listing (CUDA's own,
or `pip install nvidia-cuda-nvdisasm`), each once, however often a loop runs it. Occupancy is what registers and shared
memory allow, as a share of the threads that a multiprocessor holds. Global loads and stores are counted by their width
in bytes too: a thread that reads 16 at once is what a map in half precision wants.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import record
from tabulate import tabulate

import dcnlab.ops.cuda
from dcnlab.ops.cuda.compile import compile_cubin
from dcnlab.ops.cuda.source import Variant, source_text

FAMILIES = {
    "float": r"F(FMA|MUL|ADD|MNMX|SETP|SEL|CHK)|MUFU|D(FMA|MUL|ADD|SETP)|H(FMA2|MUL2|ADD2)\w*|F2F\w*|HADD2\w*",
    "integer": r"I(MAD|ADD3?|ABS|MNMX|SETP)|LEA|LOP3|SHF|SHL|SHR|SEL|VIADD\w*|PRMT|FLO|POPC|VIMNMX\w*|IADD64|IMAD64",
    "convert": r"I2F\w*|F2I\w*|I2I\w*|F2FP\w*|FRND",
    "tensor": r"[HI]MMA",
    "copies": r"LDGSTS|LDGDEPBAR|DEPBAR",
    "global": r"(LDG|STG|LD|ST|ATOMG?|RED)",
    "shared": r"(LDS|STS|LDSM|ATOMS)",
    "local": r"(LDL|STL)",
    "shuffle": r"SHFL|VOTE\w*|MATCH|REDUX",
    "control": r"BRA|EXIT|BAR|BSSY|BSYNC|CALL|RET|WARPSYNC|NOP|BREAK|BMOV|JMP|YIELD",
    "move": r"MOV|CS2R|S2R|S2UR|R2UR|UMOV|ULDC\w*|LDC\w*|LDCU\w*|P2R|R2P|PLOP3|PLOP|U\w+",
}
REGISTER_FILE, MOST_THREADS, REGISTER_STEP = 65536, {75: 1024, 86: 1536, 89: 1536, 120: 1536}, 8  # others 2048
MOST_BLOCKS = {75: 16, 86: 16, 89: 24, 120: 24}  # others 32
SHARED_BYTES = {75: 64 << 10, 80: 164 << 10, 86: 100 << 10, 89: 100 << 10, 120: 100 << 10}  # others have 228 KiB
BLOCKS_OWN_BYTES = 1 << 10  # of shared memory, which the system keeps for each block
INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z0-9_]+)(?P<form>[.A-Z0-9_]*)", re.MULTILINE
)


def main_variants() -> list[Variant]:
    """The variants on the operators' main path."""
    chosen = []
    for info in pkgutil.iter_modules(dcnlab.ops.cuda.__path__):
        room = importlib.import_module(f"dcnlab.ops.cuda.{info.name}")
        chosen += [variant for variant in (room.variants() if hasattr(room, "variants") else []) if variant.main]
    return chosen


def disassembler() -> Path:
    """CUDA's nvdisasm, installed or of the PyPI package; it must be as new as NVRTC."""
    try:
        package = files("nvidia-cuda-nvdisasm") or []
    except PackageNotFoundError:
        package = []
    programs = [str(path.locate()) for path in package if path.name == "nvdisasm"] or [shutil.which("nvdisasm")]
    if programs[0] is None:
        sys.exit("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    return Path(programs[0])


def listings(cubin: bytes) -> dict[str, str]:
    """The machine code of each kernel, as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [disassembler(), file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+),.*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def mix(listing: str) -> dict[str, int]:
    """How many instructions of each family stand in a listing."""
    counts: Counter[str] = Counter()
    for found in INSTRUCTION.finditer(listing):
        family = next((key for key, names in FAMILIES.items() if re.fullmatch(names, found["name"])), "other")
        counts[family] += 1
        if family == "global":
            width = next((bits for bits in ("128", "64", "U16", "16", "U8", "8") if f".{bits}" in found["form"]), "32")
            counts[f"global {int(width.strip('U')) // 8}B"] += 1
    return dict(counts)


def occupancy(registers: int, shared: int, threads: int, arch: int) -> float:
    """Share of a multiprocessor's threads that registers and shared memory allow."""
    most = MOST_THREADS.get(arch, 2048)
    per_thread = -(-registers // REGISTER_STEP) * REGISTER_STEP
    by_shared = SHARED_BYTES.get(arch, 228 << 10) // (shared + BLOCKS_OWN_BYTES)
    by_registers = REGISTER_FILE // (per_thread * threads)
    blocks = min(by_registers, most // threads, by_shared, MOST_BLOCKS.get(arch, 32))
    return blocks * threads / most


def main() -> None:
    """Compile, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--threads", type=int, default=128, help="of a block, where the variant does not say")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for variant in main_variants():
        for arch in (arch for arch in options.arch if arch >= variant.least_architecture):
            report = compile_cubin(source_text(variant.source_file, variant.prelude), arch)
            code = listings(report.cubin)
            for kernel, used in report.kernels.items():
                names = {"file": variant.source_file, "type": variant.prelude["scalar_t"], "kernel": kernel}
                names["load"] = variant.prelude["VEC"]  # elements
                if variant.prelude.get("total_t", names["type"]) != names["type"]:
                    if kernel != "gather":
                        continue  # the others are the same
                    names["kernel"] = f"{kernel}, sums in {variant.prelude['total_t']}"
                if kernel == "fused":
                    names["kernel"] = f"{kernel}, tile {variant.prelude['TILE']}, {variant.prelude['index_t']}"
                row: dict[str, Any] = names | {"arch": arch, "registers": used.registers}
                shared = used.shared + int(variant.prelude.get("SHARED_BYTES", 0))  # static, and the launch's
                named = "TILE_THREADS" if kernel == "input_backward" else "THREADS"  # at most
                threads = int(variant.prelude.get(named, options.threads))
                row |= {"local_bytes": used.local_memory, "shared_bytes": shared}
                row["occupancy"] = occupancy(used.registers, shared, threads, arch)
                counts = mix(code[kernel])
                row["instructions"] = sum(count for key, count in counts.items() if not key.startswith("global "))
                rows.append(row | counts)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(tabulate([[row.get(key, 0) for key in columns] for row in rows], columns, floatfmt=".2f"))
    if options.out:
        record.write(options.out, "cpu", {"threads_of_a_block": options.threads}, rows)


if __name__ == "__main__":
    main()
