"""Compiled loops are kept on disk where they can be; where they cannot, they run all the same, with one warning."""

import subprocess
import sys

import pytest
from command_line import environment

LOOPS = """
import sys
{first}
from dcnlab.ops.jit import njit

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
    """Run the loops in a process of its own; what it prints and what it warns of."""

    def once(first=""):
        if not (tmp_path / "loops.py").exists():  # a newer file is compiled anew
            (tmp_path / "loops.py").write_text(LOOPS.format(first=first))
        done = subprocess.run(
            [sys.executable, tmp_path / "loops.py"],
            env=environment(NUMBA_CACHE_DIR=str(tmp_path / "kept")),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    return once


def test_a_second_process_compiles_nothing(run):
    assert run() == (["14", "0"], "")
    assert run() == (["14", "1"], "")


@pytest.mark.parametrize(("first", "why"), [(NO_FOLDER, "no folder"), (FULL_DISK, "File too large")])
def test_where_nothing_can_be_kept_it_compiles_in_memory_and_says_so_once(run, first, why):
    printed, warned = run(first)
    assert printed == ["14", "0"]
    assert warned.count("UserWarning") == 1
    assert "NUMBA_CACHE_DIR" in warned
    assert why in warned


def test_a_changed_file_beside_it_is_taken_in_anew(run, tmp_path):
    run()
    (tmp_path / "beside.py").write_text("")
    assert run() == (["14", "0"], "")


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "left", [b"", b"\x80\x05", b"\x80\x04K\x01.garbage"], ids=["nothing", "a beginning", "another"]
)
def test_what_a_crash_left_of_a_kept_file_is_compiled_anew_and_kept(run, tmp_path, ending, left):
    run()
    for path in (tmp_path / "kept").rglob(f"*{ending}"):
        path.write_bytes(left)
    assert run() == (["14", "0"], "")
    assert run() == (["14", "1"], "")


def test_a_kept_file_that_can_be_neither_read_nor_replaced_is_one_warning(run, tmp_path):
    run()
    for path in (tmp_path / "kept").rglob("*.nbi"):
        path.unlink()
        path.mkdir()
    printed, warned = run()
    assert printed == ["14", "0"]
    assert warned.count("UserWarning") == 1
    assert "holds files that can be neither read nor replaced: Is a directory" in warned
