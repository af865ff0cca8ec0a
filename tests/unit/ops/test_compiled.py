"""Compiled loops are kept on disk where they can be; where they cannot, they run all the same, with one warning."""

import pytest
from command_line import python

from dcnlab.ops import jit

LOOPS = """
import importlib.util
import numba
numba.config.CACHE_DIR = {kept!r}  # as NUMBA_CACHE_DIR sets it when numba is imported
{first}
spec = importlib.util.spec_from_file_location("jit", {jit!r})  # by itself: dcnlab.ops would import torch
jit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jit)
njit = jit.njit

@njit(nogil=True)
def square(x):
    return x * x

@njit(error_model="numpy")
def sum_of_squares(count):
    total = 0
    for i in range(count):
        total += square(i)
    return total

print(sum_of_squares(4), sum(sum_of_squares.stats.cache_hits.values()))
"""
NO_FOLDER = "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []"
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


@pytest.fixture
def run(tmp_path):
    """Run the loops in a new process, which has numba already; what it prints and what it warns of."""

    def once(first=""):
        if not (tmp_path / "loops.py").exists():  # a newer file is compiled anew
            (tmp_path / "loops.py").write_text(LOOPS.format(first=first, jit=jit.__file__, kept=str(tmp_path / "kept")))
        done = python(tmp_path / "loops.py")
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    return once


def test_a_second_process_compiles_nothing(run):
    """numba's cache serves it, without a warning."""
    assert run() == (["14", "0"], "")
    assert run() == (["14", "1"], "")


@pytest.mark.parametrize(("first", "why"), [(NO_FOLDER, "no folder"), (FULL_DISK, "File too large")])
def test_without_a_cache_numba_compiles_with_one_warning(run, first, why):
    """A missing folder or a full disk must not stop the operators; NUMBA_CACHE_DIR is named."""
    printed, warned = run(first)
    assert printed == ["14", "0"]
    assert warned.count("UserWarning") == 1
    assert "NUMBA_CACHE_DIR" in warned
    assert why in warned


def test_a_changed_neighbour_file_recompiles_the_cache(run, tmp_path):
    """Kernels call functions of other files, whose changes numba itself does not see."""
    run()
    (tmp_path / "beside.py").write_text("")
    assert run() == (["14", "0"], "")


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "left", [b"", b"\x80\x05", b"\x80\x04K\x01.garbage"], ids=["nothing", "a beginning", "another"]
)
def test_a_damaged_cache_file_is_compiled_again(run, tmp_path, ending, left):
    """An empty, cut or foreign file of numba's cache is replaced without a warning."""
    run()
    for path in (tmp_path / "kept").rglob(f"*{ending}"):
        path.write_bytes(left)
    assert run() == (["14", "0"], "")
    assert run() == (["14", "1"], "")


def test_an_unreplaceable_cache_file_is_one_warning(run, tmp_path):
    """With a folder under a cache file's name, the code is compiled in memory with one warning."""
    run()
    for path in (tmp_path / "kept").rglob("*.nbi"):
        path.unlink()
        path.mkdir()
    printed, warned = run()
    assert printed == ["14", "0"]
    assert warned.count("UserWarning") == 1
    assert "holds files that can be neither read nor replaced: Is a directory" in warned
