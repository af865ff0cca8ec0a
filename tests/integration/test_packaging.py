"""What a wheel brings along, and what its metadata promise."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pip_install
import pytest
from locations import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


OPERATORS = ROOT / "distributions" / "ops" / "pyproject.toml"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():  # not the folder itself: building there would leave files behind
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(source: Path, out: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    return built(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def operators(source, tmp_path_factory) -> Path:
    """The wheel of the operators alone, unpacked."""
    folder = tmp_path_factory.mktemp("operators")
    built(source / "distributions" / "ops", folder).extractall(folder / "installed")
    return folder / "installed"


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


@pytest.fixture
def checkout(tmp_path):
    """A folder with what `make install` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/pip_install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def made(checkout, *words):
    """What make prints in the folder."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as by `make test`
    command = ["make", *words]
    return subprocess.run(command, cwd=checkout, env=outside, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("words", "extra"), [([], "cuda13"), (["CUDA=12"], "cuda12")])
def test_make_installs_the_cupy_of_the_chosen_cuda(checkout, words, extra):
    """CUDA 13 is the default; CUDA=12 removes cupy-cuda13x first, since pip cannot leave it out."""
    lines = made(checkout, "--dry-run", "install", *words)
    assert f"tools/pip_install.py --constraint constraints.txt --extras '{extra}'" in lines
    assert ("uninstall --quiet --yes cupy-cuda13x" in lines) is (extra == "cuda12")
    assert "about 3 GB to download, 6 GB on the disk" in lines


def test_make_with_torch_cpu_asks_for_no_cuda(checkout):
    """TORCH=cpu adds torch's index of CPU wheels and leaves CuPy out; the end says what to type next."""
    lines = made(checkout, "--dry-run", "quickstart", "TORCH=cpu")
    (command,) = [line for line in lines.splitlines() if "tools/pip_install.py" in line]
    assert "--extra-index-url https://download.pytorch.org/whl/cpu --without cupy " in command
    assert "cuda" not in lines.lower()
    assert lines.rstrip().splitlines()[-1].count("'  dcnlab ") == 3
    assert "'  . .venv/bin/activate'" in lines
    assert "test," in made(checkout, "--dry-run", "test", "TORCH=cpu")


def test_requirements_without_cupy_are_all_the_others():
    """Of the project and its extras, nothing but CuPy is left out."""
    wanted = pip_install.requirements(ROOT / "pyproject.toml", "cupy", ["slurm", "tensorboard"])
    extras = PROJECT["project"]["optional-dependencies"]
    stated = PROJECT["project"]["dependencies"] + extras["slurm"] + extras["tensorboard"]
    assert [name for name in stated if name not in wanted] == [name for name in stated if name.startswith("cupy")]


def test_of_pips_lines_the_long_ones_are_shown():
    """Large downloads with their sizes, and the installing; small files and what is kept already are not."""
    lines = [
        "Collecting torch>=2.11",
        "  Downloading torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl (821.0 MB)",
        "Downloading idna-3.10-py3-none-any.whl (70 kB)",
        "Downloading https://host/whl/nvidia_cublas-13.1-py3-none-any.whl (1.1 GB)",
        "Requirement already satisfied: numpy in /x",
        "Installing collected packages: idna, nvidia-cublas, torch",
    ]
    assert list(pip_install.shown(lines)) == [
        "  downloading torch, 821.0 MB",
        "  downloading nvidia_cublas, 1.1 GB",
        "  installing 3 packages",
    ]


def test_a_pip_that_fails_shows_its_last_lines(capfd):
    """The exit status is pip's, and the reason stands before what to do."""
    code = "import sys; print('Collecting x'); print('ERROR: no such host', file=sys.stderr); sys.exit(3)"
    assert pip_install.run([sys.executable, "-c", code]) == 3
    assert "ERROR: no such host\npip failed; the same command continues\n" in capfd.readouterr().err


PYTHON = """#!/bin/sh
case "$*" in
*"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/whole ;;
*"-m pip"*) test -e .venv/whole ;;
esac
"""
"""Stands for a Python whose `-m venv` makes a folder with pip, and for the one in that folder."""


def test_an_interrupted_environment_mends_itself(checkout):
    """A folder without pip, as a kill during ensurepip leaves it, is made again; a whole one stays."""
    (checkout / "python").write_text(PYTHON)
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout / "python", checkout / ".venv/bin/python")
    for program in (checkout / "python", checkout / ".venv/bin/python"):
        program.chmod(0o755)
    made(checkout, ".venv/.made", "PYTHON=./python")
    assert (checkout / ".venv/whole").exists()
    (checkout / ".venv/.made").unlink()  # as environments of earlier releases
    (checkout / ".venv/kept").touch()
    made(checkout, ".venv/.made", "PYTHON=./python")
    assert (checkout / ".venv/kept").exists()


def required(project: dict) -> set[str]:
    from packaging.requirements import Requirement

    return {Requirement(text).name for text in project["project"]["dependencies"]}


WITHOUT_THE_SUITE = """
import importlib, pkgutil, sys
blocked = set({blocked!r})

class Installed:
    finders = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return next((spec for finder in self.finders if (spec := finder.find_spec(name, path, target))), None)

sys.meta_path[:] = [Installed()]
import torch
import dcnlab, dcnlab.nn, dcnlab.ops, dcnlab.surgery
assert dcnlab.__file__.startswith({installed!r}), dcnlab.__file__
for package in (dcnlab.nn, dcnlab.ops):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".cuda." not in module.name:  # which need CuPy
            importlib.import_module(module.name)
with torch.device("meta"):  # shapes alone: nothing is compiled
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3))
    dcnlab.surgery.deform(model, 1)
    assert type(model[1]).__name__ == "DeformConv2d"
    assert model(torch.empty(1, 3, 9, 9)).shape == (1, 5, 5, 5)
try:
    dcnlab.fit
except ImportError as error:
    print(error)
"""


def alone(operators: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the unpacked wheel and the installed packages, but without the checkout that `site` adds."""
    path = os.pathsep.join([str(operators), sysconfig.get_path("purelib")])
    command = [sys.executable, "-S", "-P", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=operators.parent)


def test_the_operators_work_without_the_suite(operators):
    """In the wheel of dcnlab-ops, ops, nn and surgery import and compute without what only the suite requires."""
    modules = {"faster-coco-eval": "faster_coco_eval", "pytorch-lightning": "pytorch_lightning"}
    only_the_suite = required(PROJECT) - required(tomllib.loads(OPERATORS.read_text()))
    blocked = {modules.get(name, name) for name in only_the_suite} | {"lightning", "yaml", "PIL", "pandas"}
    assert {"wandb", "torchmetrics", "pycocotools", "omegaconf", "torchvision"} <= blocked
    done = alone(operators, "-c", WITHOUT_THE_SUITE.format(installed=str(operators), blocked=blocked))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "dcnlab.fit needs the whole suite; dcnlab-ops is installed: pip install dcnlab\n"


def test_the_commands_without_the_suite_end_in_one_line(operators):
    """python -m dcnlab of dcnlab-ops names the distribution that has the commands."""
    done = alone(operators, "-m", "dcnlab", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("dcnlab-ops is installed: pip install dcnlab\n")
    assert done.stderr.count("\n") == 1


def test_both_distributions_agree():
    """dcnlab-ops asks for the same versions as dcnlab, and its packages are dcnlab's."""
    whole, part = PROJECT, tomllib.loads(OPERATORS.read_text())
    assert set(part["project"]["dependencies"]) < set(whole["project"]["dependencies"])
    assert part["project"]["requires-python"] == whole["project"]["requires-python"]
    packages = [
        name for name in whole["tool"]["setuptools"]["packages"] if name in part["tool"]["setuptools"]["packages"]
    ]
    assert packages == part["tool"]["setuptools"]["packages"]
    assert {
        name for name in whole["tool"]["setuptools"]["packages"] if name.startswith(("dcnlab.ops", "dcnlab.nn"))
    } <= (set(packages))


@pytest.mark.parametrize("extra", ["slurm", "tensorboard", "onnx", "pretrained"])
def test_a_line_names_each_missing_extra(extra):
    """Where a package of an extra is missing, the message says which extra installs it."""
    assert extra in PROJECT["project"]["optional-dependencies"]
    texts = [(ROOT / name).read_text() for name in tracked("dcnlab/*.py")]
    assert any(f"pip install 'dcnlab[{extra}]'" in text for text in texts)
