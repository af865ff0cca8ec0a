"""The parts of gpu_check.py, and the packages that they need besides torch's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

GIVEN = ("torch", "torchvision", "cupy-cuda13x", "pytorch-lightning")
"""What a bare machine with a GPU has, with all that these depend on."""

WHEELS = (
    *("iniconfig", "llvmlite", "markdown-it-py", "mdurl", "numba", "omegaconf", "pluggy", "Pygments"),
    *("pytest", "pytest-timeout", "rich", "safetensors", "tabulate"),
)
"""What the parts import besides; a test holds this list against the imports."""

GPU_TESTS = tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/**/test_*_gpu.py")))

SANITIZED = "bfloat16 and ((sixteen_byte_loads and 72) or (fused_equals and tiles))"
"""The handful of tests that compute-sanitizer runs: every kernel of the main path."""


@dataclass(frozen=True)
class Part:
    """One process of the check, which appends its rows to a file of JSON lines."""

    name: str
    weight: float
    """Percent of the time; what a part leaves goes to those after it."""
    command: tuple[str, ...]
    """What Python is called with. {rows} is the file, {minutes} most of the part's time."""
    dry: tuple[str, ...] | None = None
    """The same at a tiny size on a CPU; None where that is not possible."""


def _script(name: str, *options: str, limited: bool = True) -> tuple[str, ...]:
    limit = ("--minutes", "{minutes}") if limited else ()
    return (f"benchmarks/{name}.py", *options, *limit, "--rows", "{rows}")


_BOTH = ("--modes", "eager", "replay")
_PYTEST = ("-m", "pytest", "-p", "gpu_tests", "-p", "no:cacheprovider", "-q", "--tb=short", "--rows", "{rows}")
_OPERATORS = ("--device", "cuda", "--rounds", "5", *_BOTH)
_TINY = ("--rounds", "1", "--no-memory")

PARTS = (
    Part(
        "doctor",
        8,
        _script("gpu_doctor", "--device", "cuda", limited=False),
        _script("gpu_doctor", "--device", "cpu", limited=False),
    ),
    Part(
        "tests",
        26,
        (*_PYTEST, "-m", "gpu and not slow", *GPU_TESTS),
        (*_PYTEST, "-m", "gpu and not slow", *GPU_TESTS),
    ),
    Part("sanitizer", 12, _script("gpu_sanitizer", limited=False)),
    Part(
        "operators, bfloat16",
        14,
        _script("operators", *_OPERATORS, "--dtype", "bfloat16", "--shapes", "paper", "resnet"),
        _script("operators", *_TINY, "--shapes", "tiny", *_BOTH),
    ),
    Part("operators, TF32", 5, _script("operators", *_OPERATORS, "--dtype", "float32", "--tf32", "--shapes", "main")),
    Part(
        "RoI pooling",
        8,
        _script("roi_pooling", *_OPERATORS, "--dtype", "bfloat16"),
        _script("roi_pooling", *_TINY, *_BOTH),
    ),
    Part(
        "fused",
        12,
        _script("fused", "--rounds", "3", "--dtype", "bfloat16", "float16", "float32", "--rule"),
    ),
    Part(
        "networks",
        15,
        _script("networks", "--device", "cuda", "--precision", "bf16", "--rounds", "3", "--passes", "training"),
        _script("networks", *_TINY, "--backbone", "resnet18", "--size", "64x96", "--passes", "training"),
    ),
)


def missing(names: tuple[str, ...] = WHEELS) -> list[str]:
    """Those of some packages that are not installed."""
    absent = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def pinned() -> list[str]:
    """WHEELS as requirements, in the versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
    return [versions[name.lower()] for name in WHEELS]
