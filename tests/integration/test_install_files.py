"""The container recipes, environment.yml, the workflow and the constraints agree with pyproject.toml."""

import os
import re
import subprocess
import tomllib

import pytest
import yaml
from locations import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RECIPES = ("Dockerfile", "dcnlab.def", "environment.yml")
WORKFLOW = ROOT / ".github" / "workflows" / "check.yml"


def pins(name):
    """Version of each package in a file of constraints, by normalised name."""
    lines = (line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
    return {package.lower().replace("_", "-"): version for package, version in lines}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_pythons_and_extras_that_exist(name):
    """Its Python is one that dcnlab runs on, its extras are pyproject's, and their versions are pinned."""
    text = (ROOT / name).read_text()
    [python] = re.findall(r"^(?:FROM|From:) python:(\S+?)-slim|^  - python=(\S+)", text, re.MULTILINE)
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains("".join(python))
    [extras] = re.findall(r"(?:/opt/dcnlab|\.)\[(.*?)\]", text)
    assert set(extras.split(",")) == set(EXTRAS) - {"cuda12", "docs", "test"}
    assert re.search(r"--constraint \S*constraints.txt", text)
    pinned = pins("constraints.txt")
    for requirement in [Requirement(wanted) for extra in extras.split(",") for wanted in EXTRAS[extra]]:
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_the_recipes_run_the_command_of_the_package():
    """Both containers end in the console script of pyproject.toml, and their commented commands exist."""
    [script] = PROJECT["project"]["scripts"]
    assert f'ENTRYPOINT ["{script}"]' in (ROOT / "Dockerfile").read_text()
    assert f'exec {script} "$@"' in (ROOT / "dcnlab.def").read_text()
    for name in ("Dockerfile", "dcnlab.def"):
        commented = re.findall(r"^#.* fit (\S+)$", (ROOT / name).read_text(), re.MULTILINE)
        assert commented
        assert all((ROOT / "experiments" / f"{experiment}.yaml").is_file() for experiment in commented)


def test_apptainer_copies_all_that_the_wheel_is_made_of():
    """Each folder and file that pyproject.toml names is among %files, at its own place."""
    section = (ROOT / "dcnlab.def").read_text().partition("%files\n")[2].partition("\n\n")[0]
    copied = [line.split() for line in section.splitlines()]
    assert all(target == f"/opt/dcnlab/{source}" for source, target in copied)
    wanted = {PROJECT["project"]["readme"], *PROJECT["tool"]["setuptools"]["package-dir"].values()}
    wanted |= {name.partition("/")[0] for name in PROJECT["project"]["license-files"]}
    assert {source for source, _ in copied} == {"pyproject.toml", "constraints.txt", *wanted}
    assert all((ROOT / source).exists() for source, _ in copied)


def test_dockerignore_keeps_what_the_wheel_is_made_of():
    """No folder of the package is left out of the image's context, and environments and runs are."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "runs", "wandb"} <= set(ignored)
    assert not {"pyproject.toml", "README.md", "LICENSE", "dcnlab", "cuda_kernels", "experiments", "sweeps"} & set(
        ignored
    )


def test_the_workflow_does_what_the_check_does():
    """One job runs .ci/run on the tests' Python, another `make test-newest` on the newest."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    steps = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert steps == {"check": [".ci/run"], "newest": ["make test-newest"]}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    pythons = [step["with"]["python-version"] for job in jobs.values() for step in job["steps"] if "with" in step]
    assert len(pythons) == 2
    assert all(SpecifierSet(PROJECT["project"]["requires-python"]).contains(python) for python in pythons)


def test_newest_constraints_fit_and_have_a_newer_torch():
    """Every version is allowed by pyproject.toml, nothing that the tests need is missing, and torch is newer."""
    newest, usual = pins("constraints-newest.txt"), pins("constraints.txt")
    wanted = PROJECT["project"]["dependencies"] + EXTRAS["test"] + EXTRAS["docs"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(newest[requirement.name.lower()]), requirement
    assert [*map(int, newest["torch"].split("."))] > [*map(int, usual["torch"].split("."))]


def test_make_test_newest_installs_these_constraints():
    """It makes another environment by Python 3.13, and runs the whole suite in it."""
    done = subprocess.run(
        ["make", "--dry-run", "test-newest"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert any("python3.13 -m venv .venv-newest;" in line for line in lines)
    assert any("pip_install.py --constraint constraints-newest.txt --extras 'test,cuda13'" in line for line in lines)
    assert any(line.startswith(".venv-newest/bin/python -m pytest") for line in lines)
    assert not any("constraint constraints.txt" in line for line in lines)
