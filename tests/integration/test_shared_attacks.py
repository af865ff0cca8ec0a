"""The published attacks of ../shared/attacks: the run goes on or refuses, nothing is lost, memory stays bounded."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import dcnlab, python
from locations import SHARED
from processes import GUARD

FIT = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
"""What a sweep's trials run."""

ATTACKS = SHARED / "attacks"

pytestmark = [
    pytest.mark.skipif(not ATTACKS.is_dir(), reason="the attacks are not part of the project: ../shared is absent"),
    pytest.mark.slow,
]
QUICK = ("trainer.max_steps=1", "data.train_length=64", "data.test_length=40", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder, with our `dcnlab` and `python` in its folder bin."""
    monkeypatch.chdir(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dcnlab").write_text(f'#!/bin/sh\nexec {sys.executable} -m dcnlab "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DCNLAB_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def run(*command: object, memory: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command that finds our `dcnlab` and `python` first, under a limit of its address space in bytes."""

    def limit() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    words = [str(word) for word in command]
    env = os.environ | {"PATH": f"{Path.cwd() / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(words, capture_output=True, text=True, timeout=GUARD, check=False, env=env, preexec_fn=limit)


@pytest.mark.parametrize("name", ["1_same_fit_after_failure_erases.sh", "2_changed_setting_erases.sh"])
def test_the_same_fit_resumes_and_erases_no_checkpoint(name):
    """Attack scripts: a failure or a changed setting, then the same command, kept no step before."""
    script = Path("attack.sh")
    text = (ATTACKS / name).read_text()
    script.write_text(text.replace("max_steps=199", "max_steps=60").replace("sleep 3", "sleep .2"))
    done = run("bash", script)
    before, after = (int(step) for step in re.findall(r"holds step (\d+)", done.stdout))
    assert 0 < before <= after, done.stdout + done.stderr
    assert after == 60


def test_a_small_json_takes_no_more_memory_than_it_needs():
    """Two bytes of JSON once took 4 GiB of memory."""
    done = run("bash", ATTACKS / "3_reading_two_bytes_takes_4GiB.sh")
    assert "MemoryError" not in done.stdout
    assert "a.jpg" in done.stdout


def test_a_strip_is_refused_by_its_resized_size():
    """An image of 1x60000 pixels would be resized to gigabytes."""
    for name in ("4_strip_bomb.py", "strip_1x60000.png"):
        shutil.copy(ATTACKS / name, name)
    done = run("python", "4_strip_bomb.py", memory=8_000_000_000)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dcnlab.io.errors.DataError: ")
    assert "strip_1x60000.png" in last


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "grid", "parameters": {"seed": {"min": 0, "max": 10**12}}},
        {
            "method": "grid",
            "parameters": {"optim.lr": {"distribution": "q_uniform", "min": 0.0, "max": 1.0e9, "q": 1.0e-9}},
        },
    ],
    ids=["run_cap", "whole numbers", "q_uniform"],
)
def test_a_sweep_of_billions_of_trials_is_refused_in_one_line(changes):
    """Attack files of the shared folder: the size is known before any trial is made."""
    sweep = yaml.safe_load((ATTACKS / "5_sweep_bombs.yaml").read_text()) | changes
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    done = dcnlab("sweep", "sweep.yaml", *QUICK)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "sweep.yaml" in done.stderr


def test_links_that_form_a_loop_are_skipped():
    """A folder that links to itself is listed once, and the search ends."""
    Path("attack.sh").write_text((ATTACKS / "6_links_to_itself.sh").read_text().replace("timeout 30", "timeout 300"))
    done = run("bash", "attack.sh")
    assert "no end" not in done.stdout
    assert done.stdout.split() == ["1", "images", "1"], done.stdout + done.stderr


def test_nan_weights_are_neither_scored_nor_exported():
    """evaluate and export refuse a checkpoint of NaN weights in one line with exit status 2."""
    fit = dcnlab("fit", "classification/quickstart", *QUICK, "id=x", "logger.wandb=false")
    folder = fit.stdout.splitlines()[-1]
    assert python(ATTACKS / "7_not_a_number_is_scored.py", folder).returncode == 0
    for words in (["evaluate", folder], ["export", folder, "--format", "safetensors"]):
        done = dcnlab(*words)
        assert done.returncode == 2, words
        assert len(done.stderr.strip().splitlines()) == 1
        assert "not finite" in done.stderr


def test_a_lone_surrogate_in_results_stops_no_table():
    """A results.json with an unpaired surrogate lets table and report end with exit status 0."""
    sweep = {
        "program": "classification/quickstart",
        "command": FIT,
        "method": "grid",
        "parameters": {"seed": {"values": [1, 2]}},
    }
    sweep["command"] = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert dcnlab("sweep", "sweep.yaml", *QUICK, "logger.wandb=false").returncode == 0
    victim, *_ = sorted(Path("runs").rglob("results.json"))
    victim.write_bytes((ATTACKS / "8_surrogate_results.json").read_bytes())
    for command in (["table", "sweep.yaml", "--runs", "runs"], ["report", "runs"]):
        done = dcnlab(*command, *(QUICK if command[0] == "table" else ()))
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


def test_an_image_of_thousands_of_scans_is_refused():
    target = Path("scans/train/a")
    target.mkdir(parents=True)
    shutil.copy(ATTACKS / "9_progressive_scans.jpg", target)
    code = "from dcnlab.data.classification.image_folder import ImageFolderSplit as S; S('scans', 'train')[0]"
    done = python("-c", code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dcnlab.io.errors.DataError: ")
    assert "scans" in last
