"""Compiled kernels on disk: kept, shared by processes, mended where broken, done without where no folder serves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import GUARD

from dcnlab.ops.cuda import cache, cubins
from dcnlab.ops.cuda.compile import nvrtc_problem

needs_nvrtc = pytest.mark.skipif(nvrtc_problem() is not None, reason=str(nvrtc_problem()))
SOURCE = 'extern "C" __global__ void k(float* out) { out[threadIdx.x] = 1.5f; }'


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The cache folder, empty, of a process that has compiled nothing yet."""
    monkeypatch.setenv("DCNLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_failures", [])
    cubins.image.cache_clear()
    yield tmp_path / "cache"
    cubins.image.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """The architectures that were compiled for, in order."""
    found = []
    compile_now = cubins._compiled
    monkeypatch.setattr(cubins, "_compiled", lambda source, arch: found.append(arch) or compile_now(source, arch))
    return found


def image(arch: int = 90) -> bytes:
    """As in a new process."""
    cubins.image.cache_clear()
    return cubins.image(SOURCE, arch)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@needs_nvrtc
def test_a_kernel_compiles_once_per_architecture_and_text(kept, compilations):
    """The same text and architecture come from disk; the cache folder is writable by its owner alone."""
    first = image()
    assert first.startswith(b"\x7fELF")
    assert image() == first
    assert image(80) != first
    assert compilations == [90, 80]
    cubins.image(SOURCE + "\n", 90)
    assert compilations == [90, 80, 90]
    assert len(files(kept)) == 3
    assert kept.stat().st_mode & 0o022 == 0  # nobody else may put code there


@needs_nvrtc
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "folder"])
def test_a_broken_cubin_is_compiled_again_and_replaced(kept, compilations, damage, recwarn):
    """Cut, flipped and empty files and a folder in the file's stead."""
    first = image()
    (file,) = files(kept)
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        changed = bytes([content[100] ^ 1])
        broken = {"cut": content[:-1], "flipped": content[:100] + changed + content[101:], "empty": b""}
        file.write_bytes(broken[damage])
    assert image() == first
    assert compilations == [90, 90]
    if damage == "folder":  # which cannot be replaced
        (warning,) = [str(found.message) for found in recwarn.list]
        assert "Is a directory" in warning
    else:
        assert file.read_bytes() == content
        assert not recwarn.list


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_DIR")}
    return subprocess.run(
        [sys.executable, "-c", code], env=plain | variables, capture_output=True, text=True, check=False
    )


TWO_KERNELS = f"""
from dcnlab.ops.cuda import cubins, toolkit
toolkit.import_cupy()
for arch in (80, 90):
    assert cubins.image({SOURCE!r}, arch).startswith(b"\\x7fELF")
import os; print("both", os.environ.get("CUPY_CACHE_DIR"))
"""


@needs_nvrtc
def test_an_unwritable_home_costs_one_warning():
    """The warning names DCNLAB_CACHE_DIR, kernels compile in memory, and CuPy still imports."""
    done = run(TWO_KERNELS, HOME="/proc/nowhere", XDG_CACHE_HOME="")
    assert (done.returncode, done.stdout) == (0, "both None\n"), done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert "cannot be kept on disk, so every process compiles them again" in done.stderr
    assert "DCNLAB_CACHE_DIR names a folder to keep them in (/proc/nowhere/.cache/dcnlab: " in done.stderr


@needs_nvrtc
def test_a_full_quota_costs_one_warning_and_leaves_no_file(tmp_path):
    """Where a cubin cannot be written whole, no part of it stays in the cache."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    done = run(limit + TWO_KERNELS, DCNLAB_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "both None\n"), done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert files(tmp_path) == []


@needs_nvrtc
def test_processes_that_compile_at_once_write_whole_files(tmp_path):
    """Three processes with an empty cache end well and leave two whole files."""
    environment = os.environ | {"DCNLAB_CACHE_DIR": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", TWO_KERNELS], env=environment, stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait(GUARD) for process in running] == [0, 0, 0]
    assert len(files(tmp_path)) == 2
    for file in files(tmp_path):
        assert cubins._checked(file.read_bytes()) is not None


@needs_nvrtc
def test_newer_gpus_get_ptx_and_too_old_ones_an_error(kept):
    """Architecture 199 gets PTX that its driver can compile; 3.5 is refused in one line."""
    text = image(199)
    assert b".target sm_" in text
    assert text.endswith(b"\0")
    with pytest.raises(RuntimeError, match=r"^this GPU has compute capability 3\.5, and NVRTC \d+\.\d+ compiles for "):
        image(35)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"DCNLAB_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"DCNLAB_CACHE_DIR": "~/b", "HOME": "/h"}, "/h/b"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/dcnlab"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/dcnlab"),  # the standard wants it absolute
        ({"DCNLAB_CACHE_DIR": "", "HOME": "/h"}, "/h/.cache/dcnlab"),
    ],
)
def test_cache_folder_variables_are_read_in_order(monkeypatch, variables, folder):
    """DCNLAB_CACHE_DIR, then XDG_CACHE_HOME, then the home folder."""
    for name in ("DCNLAB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.folder() == Path(folder)


def test_a_user_without_a_home_costs_a_warning(monkeypatch, kept):
    monkeypatch.delenv("DCNLAB_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", home)
    assert cache.read("x") is None
    with pytest.warns(UserWarning, match=r"\(no home: Could not determine home directory\.\)"):
        assert not cache.write("x", b"1")


def test_a_process_warns_once_of_cache_failures(kept, monkeypatch, recwarn):
    """The first failed write warns with its path and reason, later ones do not."""

    def full(*args):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(cache.os, "replace", full)
    assert not cache.write("one", b"1")
    assert not cache.write("two", b"2")
    (warning,) = [str(found.message) for found in recwarn.list]
    assert warning.endswith(f"({kept}: Disk quota exceeded)")
    assert files(kept) == []
