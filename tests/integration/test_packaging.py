"""What a wheel brings along, and what its metadata promise."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from locations import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in tracked():  # not the folder itself: building there would leave files behind
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def tracked(*patterns: str) -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("which files belong to the project is known from git alone, and there is none here")
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def test_every_python_folder_is_in_the_wheel():
    """pyproject.toml lists packages by hand, so a new folder could be forgotten."""
    folders = {str(Path(name).parent).replace("/", ".") for name in tracked("dcnlab/*.py")}
    listed = {name for name in PROJECT["tool"]["setuptools"]["packages"] if "_files" not in name}
    assert folders == listed


def test_the_wheel_holds_every_kernel_experiment_sweep_and_digit(wheel):
    names = set(wheel.namelist())
    for folder in ("cuda_kernels", "experiments", "sweeps"):
        files = tracked(folder)
        assert files
        assert {f"dcnlab/_files/{name}" for name in files} <= names
    assert tracked("dcnlab") <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_embedded_digits_are_below_2_mib_and_attributed(wheel):
    """The wheel's MNIST files take at most 2 MiB and keep their CC BY-SA attribution."""
    digits = [info for info in wheel.infolist() if info.filename.startswith("dcnlab/data/digits/mnist/")]
    assert sum(info.file_size for info in digits) <= 2 << 20
    assert "CC BY-SA 3.0" in wheel.read("dcnlab/data/digits/mnist/ATTRIBUTION.md").decode()


def test_constraints_fit_the_declared_ranges():
    """Every pinned version is allowed by its requirement in pyproject.toml."""
    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["test"] + extras["docs"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


@pytest.mark.parametrize(
    ("system", "machine", "cupys"),
    [("linux", "x86_64", 1), ("linux", "aarch64", 1), ("linux", "riscv64", 0), ("darwin", "arm64", 0)],
)
def test_a_plain_install_requires_cupy_only_with_wheels(system, machine, cupys):
    """Linux on x86_64 and aarch64 requires cupy-cuda13x; other systems, without a wheel, do not."""
    from packaging.requirements import Requirement

    on = {"sys_platform": system, "platform_machine": machine}
    wanted = map(Requirement, PROJECT["project"]["dependencies"])
    names = [found.name for found in wanted if found.marker is None or found.marker.evaluate(on)]
    assert [name for name in names if name.startswith("cupy")] == ["cupy-cuda13x"] * cupys


@pytest.mark.parametrize(("words", "extra"), [([], "cuda13"), (["CUDA=12"], "cuda12")])
def test_make_installs_the_cupy_of_the_chosen_cuda(tmp_path, words, extra):
    """CUDA 13 is the default; CUDA=12 removes cupy-cuda13x first, since pip cannot leave it out."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "--dry-run", "install", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"--editable '.[{extra}]'" in done.stdout
    assert ("uninstall --quiet --yes cupy-cuda13x" in done.stdout) is (extra == "cuda12")
