"""Trials as jobs of a real SLURM of two nodes, which the tests start and stop."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import slurm_cluster
import torch
import yaml
from command_line import complaints, dcnlab, environment, start
from locations import ROOT
from processes import GUARD, await_, processes_of
from small_experiments import write_data

from dcnlab.ablations.sweeps import slurm_jobs
from dcnlab.ablations.sweeps.sweep_file import read
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.io.errors import ConfigError

FIT = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
"""What a sweep's trials run."""

absent = slurm_cluster.missing()
needs_slurm = pytest.mark.skipif(absent is not None, reason=f"needs SLURM and munge: there is no {absent}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def sweep(tiny):
    """A sweep over the number of deformable layers of the tiny experiment."""
    tree = {
        "program": "tiny.yaml",
        "command": FIT,
        "method": "grid",
        "parameters": {"model.deform_layers": {"values": [0, 1]}},
    }
    tree["command"] = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
    Path("ablation.yaml").write_text(yaml.safe_dump(tree))
    return "ablation.yaml"


def results(path):
    found = [trial.folder / "results.json" for trial in trials_of(read(path))]
    return [json.loads(file.read_text()) for file in found if file.is_file()]


def queued():
    """Numbers of the jobs that SLURM still knows of, ended or not."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@needs_slurm
@pytest.mark.slow
def test_only_rank_0_of_a_two_machine_trial_writes(cluster, sweep):
    """Each trial is one SLURM job of two machines, with one wandb run and one metrics file."""
    options = ["--launcher", "slurm", "--slurm", "time=10", "--slurm", "partition=debug"]
    shape = ["trainer.num_nodes=2", "trainer.devices=1", "data.batch_size=8"]
    done = dcnlab("sweep", sweep, *options, *shape)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "ablation: 2 trials in runs/ablation, 0 finished before"
    ended = sorted(line.split()[1] for line in lines if line.startswith("["))
    assert ended == ["model.deform_layers=0:", "model.deform_layers=1:"]
    assert lines[-1] == "2 finished now, 0 failed"
    folders = [trial.folder for trial in trials_of(read(sweep), shape)]
    found = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [result["parameters"] for result in found] == [{"model.deform_layers": 0}, {"model.deform_layers": 1}]
    for folder, result in zip(folders, found, strict=True):
        assert (result["status"], result["environment"]["world_size"]) == ("finished", 2)
        assert result["wandb"]["sweep"] == read(sweep).id
        [_] = folder.glob("wandb/offline-run-*")
        [_] = folder.glob("metrics*.csv")
        lines = complaints((folder / "log.txt").read_text())
        lines.remove(str(folder))
        assert all(line.startswith("waiting for 1 of 2 machines at ") for line in lines)  # on a busy machine
    assert len({result["model"]["params"] for result in found}) == 2  # every process had its trial's parameters
    before = queued()
    again = dcnlab("sweep", sweep, *options, *shape)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "ablation: 2 trials in runs/ablation, 2 finished before\n"
    assert not queued() - before


@needs_slurm
@pytest.mark.slow
def test_a_restarted_launcher_finds_its_jobs_again(cluster, sweep):
    """After SIGKILL of the sweep its job is not submitted twice; after SIGTERM the job is cancelled."""
    command = ["sweep", sweep, "--limit", "1", "--launcher", "slurm", "trainer.max_steps=1000000"]
    before, processes = queued(), []
    for stop in (signal.SIGKILL, signal.SIGTERM):
        with Path("out.txt").open("w") as out:
            process = start(*command, stdout=out, stderr=subprocess.STDOUT)
        processes.append(process)
        await_(lambda: list(Path("runs").rglob("last.ckpt")) and len(queued() - before) == 1)
        if stop == signal.SIGTERM:
            await_(lambda: "already in SLURM's queue" in Path("out.txt").read_text())
        process.send_signal(stop)
        process.wait(GUARD)
    assert len(queued() - before) == 1  # nothing was submitted twice
    assert processes[1].returncode == 128 + signal.SIGTERM
    assert Path("out.txt").read_text().splitlines() == [
        "ablation: 2 trials in runs/ablation, 0 finished before",
        "1 of them are already in SLURM's queue",
        f"stopped by SIGTERM; continue with: {shlex.join(['dcnlab', *command])}",
    ]
    assert not processes_of(Path.cwd())
    assert [result["status"] for result in results_of_all()] == ["interrupted"]


def srun(*arguments, nodes=1, **more):
    """A run in two tasks of one srun, on one machine or two."""
    command = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks-per-node={2 // nodes}",
        sys.executable,
        "-P",
        "-m",
        "dcnlab",
        *arguments,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(**more), **pipes)


def rank_of(number):
    """The process of this folder that is srun's task `number`: the first, where it has started others."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            if os.readlink(process / "cwd") == os.getcwd() and f"SLURM_PROCID={number}".encode() in variables:
                found.append(int(process.name))
        except OSError:
            continue
    return min(found)


@needs_slurm
def test_srun_settings_are_complained_about_by_one_task(cluster, tiny):
    """Two tasks with a wrong setting print one line, not one each."""
    process = srun("fit", tiny, "id=one", "trainer.devices=3")
    _, err = process.communicate(timeout=GUARD)
    assert process.returncode == 2
    [line] = [line for line in err.splitlines() if not line.startswith("srun: ")]
    assert line.startswith("dcnlab: srun started 2 tasks (SLURM_NTASKS) on 1 machine (SLURM_NNODES), and trainer.devi")
    assert not Path("runs").exists()


COUNT = """
import os
from dcnlab.training.distributed import slurm_variables
print("tasks", slurm_variables.srun_tasks(), flush=True)
"""
AGENT = """
import os, subprocess, sys
os.environ["WANDB_SWEEP_ID"] = "abc"
subprocess.run([sys.executable, "count.py"], check=True)
"""


@needs_slurm
@pytest.mark.parametrize(
    ("command", "counts"),
    [
        (["srun", "-n2", "-N1", sys.executable, "agent.py"], [1, 1]),
        (["env", "WANDB_SWEEP_ID=abc", "srun", "-n2", "-N1", sys.executable, "count.py"], [2, 2]),
        (["srun", "-n2", "-N1", "--job-name=train", "--pty", "sh", "shell.sh"], [1, 2, 2]),
    ],
    ids=["agents are tasks", "an agent's trial has tasks", "a shell, then srun in it"],
)
def test_only_tasks_that_share_a_command_are_counted(cluster, tmp_path, monkeypatch, command, counts):
    """What an agent or a user's shell starts is alone, even where srun started several of them."""
    monkeypatch.chdir(tmp_path)
    Path("count.py").write_text(COUNT)
    Path("agent.py").write_text(AGENT)
    Path("shell.sh").write_text(f"{sys.executable} count.py\nsrun --overlap {sys.executable} count.py\n")
    terminal = [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", *command]
    done = subprocess.run(
        terminal, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    found = [int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("tasks ")]
    assert (done.returncode, sorted(found)) == (0, counts), done.stdout


SCRIPTS = [
    textwrap.dedent(block)
    for block in re.findall(r"^    #!.*\n(?:    .*\n)+", (ROOT / "docs/clusters.md").read_text(), re.MULTILINE)
]
"""Batch scripts that docs/clusters.md prints: without srun, and with it on two machines."""


@needs_slurm
@pytest.mark.parametrize(("script", "devices"), list(zip(SCRIPTS, (2, 1), strict=True)), ids=["alone", "srun"])
def test_the_documented_batch_scripts_start_all_ranks(cluster, tiny, script, devices):
    """Each makes one run with a rank for each device, here of a smaller experiment and fewer devices."""
    python = f"{sys.executable} -P -m dcnlab"
    words = {"=8": f"={devices}", "dcnlab": python, "detection/rfcn_coco data.root=COCO": f"{tiny} {' '.join(QUICK)}"}
    for documented, here in {f" --gpus-per-node={devices}": "", **words}.items():
        assert documented in script or documented.startswith(" --gpus")
        script = script.replace(documented, here)
    Path("job.sh").write_text(script.replace(f" --gpus-per-node={devices}", ""))
    command = ["sbatch", "--wait", "--output=out.txt", "job.sh"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=GUARD)
    lines = Path("out.txt").read_text().splitlines()
    assert (done.returncode, lines.count("runs/tiny/NAME")) == (0, 1), lines
    assert not [line for line in lines if line.startswith(("dcnlab: ", "warning: "))]
    [result] = results_of_all()
    assert (result["status"], result["environment"]["world_size"]) == ("finished", 2)


@needs_slurm
def test_tasks_of_a_users_shell_share_one_run(cluster, tiny):
    """srun within salloc has the job name `interactive`, by which Lightning takes each task for a run."""
    command = ["salloc", "--nodes=1", "--ntasks=2", "srun", sys.executable, "-P", "-m", "dcnlab", "fit", tiny]
    words = [*command, *QUICK, "trainer.devices=2", "id=one"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=GUARD)
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n"), done.stderr
    [result] = results_of_all()
    assert result["environment"]["world_size"] == 2


QUICK = ["data.batch_size=8", "logger.wandb=false", "data.val=null", "trainer.max_steps=1"]
ON_TWO = ["id=one", "trainer.devices=2", "data.batch_size=8", "logger.wandb=false", "data.val=null"]


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_srun_task_is_named_and_the_run_resumes(cluster, tiny, killed):
    """SIGKILL of either rank ends both; srun of the same command, or `dcnlab` alone, resumes from the checkpoint."""
    longer = ["trainer.max_steps=100000", "trainer.checkpoint_every=0"]
    process = srun("fit", tiny, *ON_TWO, *longer)
    await_(Path("runs/tiny/one/checkpoints/last.ckpt").exists)
    number = rank_of(killed)
    os.kill(number, signal.SIGKILL)
    _, err = process.communicate(timeout=GUARD)  # a collective would wait for half an hour
    assert process.returncode != 0
    assert sum(line.startswith(f"dcnlab: rank {killed} (process {number}) ") for line in err.splitlines()) == 1, err
    await_(lambda: not processes_of(Path.cwd()))
    step = torch.load("runs/tiny/one/checkpoints/last.ckpt", weights_only=True)["global_step"]
    process = (srun, start)[killed]("fit", tiny, *ON_TWO, f"trainer.max_steps={step + 2}")
    out, err = process.communicate(timeout=GUARD)
    assert (process.returncode, out) == (0, "runs/tiny/one\n"), err
    assert f"resuming from step {step}" in err


@needs_slurm
@pytest.mark.slow
def test_one_task_a_machine_starts_its_other_ranks(cluster, tiny):
    """One task on each of two machines makes a run of four ranks; a killed rank 0 is named, and none stays."""
    words = ["fit", tiny, *ON_TWO, "trainer.num_nodes=2"]
    process = srun(*words, "trainer.max_steps=100000", "trainer.checkpoint_every=0", nodes=2)
    await_(Path("runs/tiny/one/checkpoints/last.ckpt").exists)
    number = rank_of(0)
    os.kill(number, signal.SIGKILL)
    _, err = process.communicate(timeout=GUARD)
    assert process.returncode != 0
    assert sum(line.startswith(f"dcnlab: rank 0 (process {number}) ") for line in err.splitlines()) == 1, err
    await_(lambda: not processes_of(Path.cwd()))
    step = torch.load("runs/tiny/one/checkpoints/last.ckpt", weights_only=True)["global_step"]
    process = srun(*words, f"trainer.max_steps={step + 1}", nodes=2)
    out, err = process.communicate(timeout=GUARD)
    assert (process.returncode, out) == (0, "runs/tiny/one\n"), err
    [result] = results_of_all()
    assert (result["status"], result["environment"]["world_size"]) == ("finished", 4)


@needs_slurm
@pytest.mark.slow
def test_a_broken_image_of_one_srun_task_stops_both(cluster, tmp_path, monkeypatch):
    """Both tasks of srun exit with 2, and one line names the file."""
    monkeypatch.chdir(tmp_path)
    write_data()
    broken = sorted(Path("folders/train").rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    process = srun("fit", "classification.yaml", "id=one", "trainer.devices=2")
    out, err = process.communicate(timeout=GUARD)  # a collective would wait for half an hour
    assert (process.returncode, out) == (2, "")
    [line] = [line for line in err.splitlines() if line.startswith("dcnlab: ")]
    assert line.startswith(f"dcnlab: {broken} ")
    assert json.loads(Path("runs/classification/one/results.json").read_text())["status"] == "failed"


def results_of_all():
    return [json.loads(file.read_text()) for file in Path("runs").rglob("results.json")]


@needs_slurm
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("partition=nowhere", "sbatch refuses the trials: invalid partition specified: nowhere"),
        ("nodes=3", "--slurm nodes=3, but trials take 1; state it as trainer.num_nodes=3"),
        ("ntasks-per-node=2", "--slurm ntasks-per-node=2, but trials take 1; state it as trainer.devices=2"),
        ("array=1-3", "--slurm array=1-3: the sweep sets array itself"),
        ("colour=red", "sbatch refuses the trials: "),
    ],
)
def test_options_that_slurm_refuses_are_one_line(cluster, sweep, option, says):
    """sbatch's own message is passed on; node counts name the trainer key to set instead."""
    done = dcnlab("sweep", sweep, "--launcher", "slurm", "--slurm", option)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dcnlab: {says}")
    assert done.stderr.count("\n") == 1


def test_a_missing_slurm_or_submitit_is_named(sweep, monkeypatch, tmp_path):
    """The message has the missing command, or the pip command that installs submitit."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs SLURM's commands, and there is no squeue here"):
        slurm_jobs.SlurmJobs("ablation", tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install 'dcnlab\[slurm\]'"):
        slurm_jobs.SlurmJobs("ablation", tmp_path)


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    """The message of squeue is passed on."""
    pytest.importorskip("submitit")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'squeue: error: Unable to contact slurm' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    (tmp_path / "srun").symlink_to("squeue")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="SLURM does not answer: squeue: error: Unable to contact slurm"):
        slurm_jobs.SlurmJobs("ablation", tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slurm", "partition=debug"], "--slurm partition=debug: there are no jobs to give it to"),
        (["trainer.num_nodes=2"], "trainer.num_nodes is 2, and trials run on this machine"),
    ],
)
def test_what_takes_slurm_is_refused_without_it(sweep, words, says):
    """Options of jobs would have no effect, and trials on two machines would wait for each other."""
    done = dcnlab("sweep", sweep, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dcnlab: {says}; state --launcher slurm\n"
    assert not Path("runs").exists()
