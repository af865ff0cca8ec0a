"""A sweep runs what is missing and nothing else, and leaves no process behind however it ends."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import pytest
import torch
import yaml
from command_line import dcnlab, environment, python
from processes import GUARD, alive, await_, children_of, processes_of

from dcnlab.ablations.report import gather
from dcnlab.ablations.sweeps import child as children
from dcnlab.ablations.sweeps import display, launch, local, pace
from dcnlab.ablations.sweeps import run as ablation
from dcnlab.ablations.sweeps.sweep_file import read
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.ablations.tables import build_table
from dcnlab.config import packaged
from dcnlab.config.load import load_experiment, to_yaml
from dcnlab.io.errors import ConfigError
from dcnlab.training import process_death
from dcnlab.training.distributed import parent_death
from dcnlab.training.run_folder import RunFolder


@pytest.fixture
def sweep(tiny):
    """A function that writes a sweep file upon the tiny experiment and gives its path."""

    def write(parameters, **changes):
        tree = {
            "program": "tiny.yaml",
            "command": ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"],
            "method": "grid",
            "parameters": parameters,
            **changes,
        }
        Path("ablation.yaml").write_text(yaml.safe_dump(tree))
        return "ablation.yaml"

    return write


def results(path):
    """Results of a sweep's finished trials, by what was set."""
    folders = [trial.folder for trial in trials_of(read(path))]
    found = {folder: RunFolder(folder).read_results() for folder in folders}
    return {str(folder): result for folder, result in found.items() if result and result["status"] == "finished"}


def stamps():
    return {path: path.stat().st_mtime_ns for path in Path("runs").rglob("results.json")}


def start(*arguments):
    """The sweep as the leader of a process group of its own, as a shell starts it."""
    with Path("out.txt").open("w") as out:
        return command_line.start("sweep", *arguments, stdout=out, stderr=subprocess.STDOUT, new_session=True)


def start_and_kill(path, delay):
    """Kill a sweep and nothing else, `delay` seconds after its first trial began."""
    print(f"killed after {delay:.2f} s")
    process = start(path, "--jobs", "2")
    await_(lambda: process.poll() is not None or len(processes_of(Path.cwd())) > 1)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_sweep_runs_only_the_missing_trials(sweep):
    """After two SIGKILLs at random times, finished trials stay as they are and no process is left."""
    path = sweep({"model.deform_layers": {"values": [0, 1]}, "seed": {"values": [0, 1]}})
    complete = {}
    for delay in [random.SystemRandom().uniform(0, 4) for _ in range(2)]:
        start_and_kill(path, delay)
        await_(lambda: not processes_of(Path.cwd()))
        assert complete.items() <= stamps().items()
        complete = {file: stamp for file, stamp in stamps().items() if json.loads(file.read_text())}
    done = len(results(path))

    again = dcnlab("sweep", path, "--jobs", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"4 trials in runs/ablation, {done} finished before" in again.stdout
    if done < 4:
        assert f"{4 - done} finished now, 0 failed" in again.stdout
    assert complete.items() <= stamps().items()
    found = results(path).values()
    assert len(list(Path("runs").rglob("results.json"))) == len(found) == 4
    assert {(r["parameters"]["model.deform_layers"], r["parameters"]["seed"]) for r in found} == {
        (layers, seed) for layers in (0, 1) for seed in (0, 1)
    }
    assert not processes_of(Path.cwd())
    assert {r["wandb"]["sweep"] for r in found} == {read(path).id}

    complete = stamps()
    third = dcnlab("sweep", path)
    assert (third.returncode, third.stderr) == (0, "")
    assert "4 finished before" in third.stdout
    assert stamps() == complete

    table = dcnlab("table", path, "--runs", "runs", "--format", "json")
    assert table.returncode == 0, table.stderr
    assert [(row["model.deform_layers"], row["seeds"]) for row in json.loads(table.stdout)] == [(0, 2), (1, 2)]


@pytest.mark.slow
def test_a_failed_trial_shows_its_log_and_others_run(sweep):
    """The sweep prints the failed trial's last log line, runs the rest and exits with status 1."""
    path = sweep({"model.deform_layers": {"values": [99, 0]}, "model.deform_kernel_size": {"value": 5}})
    done = dcnlab("sweep", path, "--jobs", "1")
    assert (done.returncode, done.stderr) == (1, "")
    [log] = [line.rpartition(" ")[2] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert Path(log).read_text().splitlines()[-1] in done.stdout
    assert "99" in Path(log).read_text()
    assert "1 finished now, 1 failed; the same command runs the 1 missing" in done.stdout
    assert [r["parameters"] for r in results(path).values()] == [
        {"model.deform_layers": 0, "model.deform_kernel_size": 5}
    ]
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_a_failed_trial_resumes_from_its_checkpoint(sweep):
    """A trial killed in training continues at its saved step when the same sweep runs again."""
    path = sweep({"seed": {"values": [0]}})
    longer = ["trainer.max_steps=100", "data.val=null", "trainer.checkpoint_every=0"]
    while not kill_the_trial(start(path, "--jobs", "1", *longer)):
        shutil.rmtree("runs")
    [checkpoint] = Path("runs").rglob("last.ckpt")
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step < 100
    done = dcnlab("sweep", path, "--jobs", "1", *longer)
    assert done.returncode == 0, done.stdout
    assert f"resuming from step {step}" in (checkpoint.parents[1] / "log.txt").read_text()
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 100


def kill_the_trial(sweep):
    """Kill a sweep's one trial after its first checkpoint; False where the trial was quicker."""
    await_(lambda: list(Path("runs").rglob("last.ckpt")) or sweep.poll() is not None)
    with contextlib.suppress(OSError):  # the sweep or its trial has just ended
        for trial in children_of(sweep.pid):
            os.kill(trial, signal.SIGKILL)
    return sweep.wait(GUARD) == 1


@pytest.mark.slow
def test_a_stopped_sweep_marks_its_trials_as_interrupted(sweep):
    """After Ctrl-C the trial has saved its last step, and the last line is the command that continues."""
    path = sweep({"seed": {"values": [0, 1]}})
    longer = ["trainer.max_steps=1000000", "data.train_length=100000", "data.val=null"]  # its first epoch never ends
    process = start(path, "--jobs", "1", *longer)
    await_(lambda: list(Path("runs").rglob("metrics.csv")))
    process.send_signal(signal.SIGINT)
    assert process.wait(GUARD) == 128 + signal.SIGINT
    said = Path("out.txt").read_text().splitlines()
    assert said[-2] == "Ctrl-C: the trials save and end; a second one ends them at once"
    words = f"sweep ablation.yaml --jobs 1 {' '.join(longer)}"
    assert said[-1] == f"stopped by SIGINT; continue with: dcnlab {words}"
    assert not processes_of(Path.cwd())
    [file] = stamps()
    assert json.loads(file.read_text())["status"] == "interrupted"
    assert torch.load(file.parent / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.slow
def test_unstartable_and_broken_trials_fail_alone(sweep):
    """A blocked run folder and an unreadable results.json fail their own trials; the third finishes."""
    path = sweep({"seed": {"values": [0, 1, 2]}})
    blocked, broken, good = trials_of(read(path))
    blocked.folder.parent.mkdir(parents=True)
    blocked.folder.write_text("a file where the trial's folder should be")
    broken.folder.mkdir()
    (broken.folder / "results.json").write_text('{"schema": 1, "sta')
    done = dcnlab("sweep", path, "--jobs", "1")
    assert done.returncode == 1
    [complaint] = done.stderr.splitlines()
    assert complaint.startswith(f"{broken.folder}/results.json: not JSON")
    assert f"FAILED {blocked}: it cannot start: " in done.stdout
    assert f"FAILED {broken}: exit status 2, its log is " in done.stdout
    assert "1 finished now, 2 failed; the same command runs the 2 missing" in done.stdout
    assert RunFolder(good.folder).read_results()["status"] == "finished"


@pytest.mark.slow
def test_removing_the_folder_of_a_trial_spares_the_next(sweep):
    """A run folder deleted during training fails its trial alone; the parallel trial finishes."""
    path = sweep({"seed": {"values": [0, 1]}})
    longer = ["trainer.max_steps=60", "data.val=null", "trainer.checkpoint_every=0"]
    lost, kept = trials_of(read(path), longer)
    process = start(path, "--jobs", "2", *longer)
    await_((lost.folder / "checkpoints/last.ckpt").exists)
    shutil.rmtree(lost.folder, ignore_errors=True)
    process.wait(GUARD)
    out = Path("out.txt").read_text()
    assert (kept.folder / "results.json").exists(), out
    assert RunFolder(kept.folder).read_results()["status"] == "finished"
    assert f"{kept}: top1 " in out
    assert "finished now" in out.splitlines()[-1]
    assert not processes_of(Path.cwd())


LATER = """
import time
from pathlib import Path
from types import SimpleNamespace
from dcnlab.ablations.sweeps import child
from dcnlab.cli.main import main
hours = lambda: 3600 * any(Path("runs").rglob("last.ckpt"))
child.time = SimpleNamespace(monotonic=lambda: time.monotonic() + hours())
main()
"""
"""The command line on a clock that shows an hour more once a trial has a checkpoint."""


@pytest.mark.slow
def test_trial_minutes_stop_one_trial_and_keep_its_state(sweep):
    """--trial-minutes interrupts the long trial with its checkpoint, then the next trial runs."""
    path = sweep({"trainer.max_steps": {"values": [1000000, 1]}})
    overrides = ["data.workers=1", "data.val=null"]
    done = python("-c", LATER, "sweep", path, "--jobs", "1", "--trial-minutes", "50", *overrides)
    assert done.returncode == 1
    long, short = trials_of(read(path), overrides)
    said = "it took longer than --trial-minutes 50; the same command resumes it from its checkpoint"
    assert f"FAILED {long}: {said}, its log is " in done.stdout
    assert "1 finished now, 1 failed; the same command runs the 1 missing" in done.stdout
    assert RunFolder(long.folder).read_results()["status"] == "interrupted"
    assert (long.folder / "checkpoints/last.ckpt").exists()
    assert RunFolder(short.folder).read_results()["status"] == "finished"
    assert not processes_of(Path.cwd())


def test_a_trial_that_ignores_signals_is_killed(tmp_path, monkeypatch):
    """A trial that ignores SIGTERM gets SIGKILL, and so do the processes that it started."""
    (tmp_path / "dcnlab").mkdir()
    (tmp_path / "dcnlab/__init__.py").touch()
    (tmp_path / "dcnlab/__main__.py").write_text(
        "import signal, subprocess, time\n"
        "for number in (signal.SIGTERM, signal.SIGUSR1): signal.signal(number, signal.SIG_IGN)\n"
        "loader = subprocess.Popen(['sleep', '3600'])\nprint(loader.pid, flush=True)\ntime.sleep(3600)\n"
    )
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path / "dcnlab")
    log = tmp_path / "log.txt"
    child = children.start(["fit"], log, children.Slot(None, 1), {})
    await_(lambda: log.read_text().endswith("\n"))

    def gone():
        children.urge(child, patience=0.2)
        return child.process.poll() is not None

    await_(gone)
    assert child.process.returncode == -signal.SIGKILL
    await_(lambda: not alive(log.read_text().strip()))


def test_only_the_end_of_a_log_is_read(tmp_path):
    """A log of 8 GiB is not read whole; a missing log or a pipe gives a message."""
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(2**33)  # a hole, which takes no room on the disk
        file.seek(2**33)
        file.write(b"".join(b"line %d\n" % number for number in range(50)))
    began = time.process_time()
    lines = display.log_end(log)
    assert time.process_time() - began < 1  # it takes a millisecond
    assert lines == [f"line {number}" for number in range(38, 50)]
    log.write_bytes(b"\xff" * 10**6)  # one line, and no text
    [line] = display.log_end(log)
    assert len(line) == 500
    log.unlink()
    assert display.log_end(log) == [f"there is no log {log}"]
    os.mkfifo(log)
    assert display.log_end(log) == ["its log cannot be read: is a pipe; a regular file is needed"]


def test_a_killed_trial_reports_the_signal_and_its_cause():
    """The message of SIGKILL adds that the kernel often sends it for want of memory."""
    assert [process_death.ending(status) for status in (2, -9, -15)] == [
        "exit status 2",
        "killed by signal 9 (SIGKILL), often the kernel's for want of memory",
        "killed by signal 15 (SIGTERM)",
    ]


def test_one_invalid_trial_is_refused_before_any_starts(sweep):
    """The message names the trial and the key, and no run folder is made."""
    path = sweep({"model.deform_layers": {"values": [0, "three"]}})
    done = dcnlab("sweep", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "dcnlab: ablation.yaml: trial model.deform_layers=three: sweep: "
        "model.deform_layers is 'three'; it must be a whole number\n"
    )
    assert not Path("runs").exists()


@pytest.mark.slow
def test_limit_bounds_the_trials_of_one_call(sweep):
    """--limit 1 runs one of three trials, below --out; the message counts the missing ones."""
    path = sweep({"seed": {"values": [0, 1, 2]}})
    first = dcnlab("sweep", path, "--limit", "1", "--out", "elsewhere")
    assert first.returncode == 0
    assert "1 finished now, 0 failed; the same command runs the 2 missing" in first.stdout
    found = list(Path("elsewhere/ablation").glob("*/results.json"))
    assert [json.loads(file.read_text())["parameters"] for file in found] == [{"seed": 0}]
    assert not Path("runs").exists()


@pytest.mark.slow
def test_wandbs_agent_and_our_sweep_make_equal_runs(sweep, tmp_path, monkeypatch):
    """wandb's own agent code expands the command; only its server is replaced."""
    from wandb.wandb_agent import Agent

    path = sweep({"model": {"parameters": {"deform_layers": {"values": [1]}}}, "seed": {"values": [3]}})
    assert dcnlab("sweep", path).returncode == 0
    [ours] = results(path).values()

    # wandb's agent writes the parameters and expands the macros of the command; the server alone is not there.
    shim = tmp_path / "bin" / "dcnlab"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m dcnlab "$@"\n')
    shim.chmod(0o755)
    for name, value in environment(WANDB_MODE="offline", WANDB_SWEEP_ID="s1", WANDB_DIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "wandb" / "sweep-s1").mkdir(parents=True)
    agent = Agent(api=None, queue=None, sweep_id="s1")
    agent._sweep_command = yaml.safe_load(Path(path).read_text())["command"]
    parameters = {"model": {"value": {"deform_layers": 1}}, "seed": {"value": 3}}
    agent._command_run({"type": "run", "run_id": "r1", "program": "tiny.yaml", "args": parameters})
    assert agent._run_processes["r1"].wait(GUARD) == 0
    theirs = json.loads(Path("runs/tiny/r1/results.json").read_text())
    assert theirs["wandb"] == {"id": "r1", "sweep": "s1"}
    for key in ("parameters", "metrics", "model", "seed", "status"):
        assert theirs[key] == ours[key], key


# The parts, without whole runs.


@pytest.mark.parametrize(
    ("experiment", "parameters", "threads"),
    [({}, {}, ["trainer.threads=5"]), ({"threads": 3}, {}, []), ({}, {"trainer.threads": {"value": 2}}, [])],
)
def test_a_trial_uses_the_threads_that_the_user_chose(sweep, experiment, parameters, threads):
    """Only where neither file nor sweep sets trainer.threads does the launcher add it."""
    path = sweep({"seed": {"value": 0}, **parameters})
    tree = yaml.safe_load(Path("tiny.yaml").read_text())
    tree["trainer"] = {"max_steps": 2, **experiment}
    Path("tiny.yaml").write_text(yaml.safe_dump(tree))
    [trial] = trials_of(read(path))
    command = launch.command(read(path), trial, [], 5)
    assert [word for word in command if word.startswith("trainer.threads=")] == threads
    assert f"id={trial.id}" in command


class Clockwork:
    """Trials that take as long as they are told, on a clock of their own; none is a process."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds, self.started = 0.0, list(seconds), []
        for module in (local, pace):
            monkeypatch.setattr(module, "time", self)
        monkeypatch.setattr(local, "start", self.start)
        for name in ("clear", "stop"):
            monkeypatch.setattr(children, name, lambda *_: None)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += 1.0

    def start(self, sweep, trial, slot, arguments):
        self.started.append(self.now)
        return Ticking(self, trial, slot, self.seconds.pop(0))


class Ticking:
    """A child of the clockwork, and its own process."""

    def __init__(self, clock, trial, slot, needs):
        self.clock, self.trial, self.slot, self.needs, self.began = clock, trial, slot, needs, clock.now
        self.process, self.pid, self.returncode, self.urged = self, id(self), 0, None

    @property
    def seconds(self):
        return self.clock.now - self.began

    def poll(self):
        if self.seconds < self.needs:
            return None
        finish(self.trial, self.needs)
        return 0


def finish(trial, seconds, folder=None):
    """Leave what a finished trial leaves."""
    folder = folder or trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    sections = {"metrics": {"top1": 50.0}, "model": {}, "cost": {"train_seconds": seconds}, "environment": {}}
    results = {"schema": 1, "status": "finished", "seed": trial.config.seed, "parameters": trial.parameters}
    RunFolder(folder).write_results(results | sections)
    (folder / "config.yaml").write_text(to_yaml(trial.config))


@pytest.mark.parametrize(
    ("jobs", "minutes", "before", "seconds", "started"),
    [
        (1, 10, [], [240, 240, 240], [0, 240]),  # a third would end after 12 minutes
        (1, 12, [], [240, 240, 240], [0, 240, 480]),
        (2, 10, [], [240, 240, 240, 240, 240], [0, 0, 240, 240]),
        (1, 10, [], [100, 300, 100, 100], [0, 100]),  # after the longest so far
        (2, 9, [], [100, 350, 100], [0, 0, 100, 200]),  # one at work counts for as long as it has been
        (1, 10, [500], [240, 240], [0]),  # by what an earlier call took
        (1, 1, [500], [240, 240], [0]),  # the first starts in any case, or no call would get anywhere
    ],
)
def test_minutes_starts_no_trial_that_cannot_finish(
    sweep, monkeypatch, capsys, jobs, minutes, before, seconds, started
):
    """The longest trial so far decides, with one and several jobs; the first one always starts."""
    path = sweep({"seed": {"values": list(range(8))}})
    for trial, took in zip(trials_of(read(path)), before, strict=False):
        finish(trial, took)
    clock = Clockwork(monkeypatch, seconds + [100] * 8)
    assert ablation.run(path, jobs=jobs, minutes=minutes) == 0
    assert clock.started == started
    out = capsys.readouterr().out
    assert f"--minutes {minutes} leave no time for another trial" in out
    left = 8 - len(before) - len(started)
    assert out.endswith(f"{len(started)} finished now, 0 failed; the same command runs the {left} missing\n")


def test_sweeps_share_their_common_trials(sweep, monkeypatch, capsys):
    """A trial finished in another sweep is not repeated, and both tables show it."""
    layers = sweep({"model.deform_layers": {"values": [0, 1]}, "model.dilation": {"value": 2}})
    Path(layers).rename("layers.yaml")
    dilation = sweep({"model": {"values": [{"deform_layers": 1, "dilation": d} for d in (1, 2, 3)]}})
    for trial in trials_of(read("layers.yaml")):
        finish(trial, 1.0)
    clock = Clockwork(monkeypatch, [5, 5])
    assert ablation.run(dilation, jobs=1) == 0
    assert "3 trials in runs/ablation, 1 finished before, some of them in runs/layers" in capsys.readouterr().out
    assert len(clock.started) == 2
    rows = build_table.assemble(dilation, [Path("runs")]).sections[0].rows
    assert [(row["model.dilation"], row["seeds"]) for row in rows] == [(1, 1), (2, 1), (3, 1)]


def test_tables_share_runs_but_separate_tasks(tmp_path, monkeypatch):
    """Sweeps below one folder share their common runs, and no run of another task counts as left out."""
    monkeypatch.chdir(tmp_path)
    names = [f"{table}_{task}_small" for task in ("classification", "segmentation") for table in ("table1", "table3")]
    for name in names:  # as `make ablations-small` runs them
        for trial in trials_of(read(name), ["seed=0"]):
            if ablation._finished(trial) is None:
                finish(trial, 1.0)
    for name in names:
        table = build_table.assemble(name, [Path("runs")], ["seed=0"])
        assert [row["seeds"] for section in table.sections for row in section.rows] == [1] * (5 if "1" in name else 4)
        assert not [note for note in table.notes if "left out" in note], table.notes
    report = gather.report(Path("runs"))
    seeds = {group.name: [row["seeds"] for row in group.section.rows] for group in report.groups}
    assert seeds == {name: [1] * (5 if "1" in name else 4) for name in names}
    assert len(report.records) == 2 * (5 + 2)


def test_a_trial_dies_with_its_sweep(tmp_path):
    """SIGKILL of the parent ends the child, though it has its own session."""
    module = "from dcnlab.training.distributed import parent_death"
    child = f"{module}; import time; parent_death.hold(); print('held', flush=True); time.sleep(3600)"
    parent = (
        f"import os, subprocess, sys, time; {module}\n"
        "env = {**os.environ, parent_death.PARENT: str(os.getpid())}\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], env=env, start_new_session=True)\n"
        "print(p.pid, flush=True); time.sleep(3600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment(), stdout=subprocess.PIPE, text=True)
    lines = {process.stdout.readline().strip() for _ in range(2)}
    pid = int((lines - {"held"}).pop())
    assert alive(pid)
    process.kill()
    process.wait()
    await_(lambda: not alive(pid))


def test_a_trial_whose_parent_is_gone_exits_at_once():
    """The parent may die before the child asks the kernel for the signal."""
    code = "import dcnlab.training.distributed.parent_death as l; l.hold(); print('lives')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**{parent_death.PARENT: "1"}), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("jobs", "devices", "accelerator", "cores", "count", "gpus", "slots"),
    [
        (None, 1, "auto", 2, 12, 0, [(None, 1)] * 2),
        (None, 1, "auto", 16, 12, 0, [(None, 4)] * 4),
        (None, 1, "auto", 16, 1, 0, [(None, 16)]),
        (3, 1, "auto", 16, 12, 0, [(None, 5)] * 3),
        (None, 1, "auto", 16, 12, 4, [("0", 4), ("1", 4), ("2", 4), ("3", 4)]),
        (None, 2, "gpu", 16, 12, 4, [("0,1", 8), ("2,3", 8)]),
        (4, 2, "gpu", 16, 12, 4, [("0,1", 4), ("2,3", 4), ("0,1", 4), ("2,3", 4)]),
        (None, 1, "cpu", 2, 12, 4, [(None, 1)] * 2),
    ],
)
def test_gpus_and_cores_are_divided_among_the_jobs(monkeypatch, jobs, devices, accelerator, cores, count, gpus, slots):
    """By hand: each slot gets its devices and an equal number of threads."""
    monkeypatch.setattr(local, "visible_gpus", lambda: [str(index) for index in range(gpus)])
    found = local.slots(jobs, devices, accelerator, cores, count)
    assert [(slot.gpus, slot.threads) for slot in found] == slots


def test_a_trial_gets_its_gpus_threads_and_our_package(tmp_path, monkeypatch):
    """A trial's environment has its own GPUs, threads and sweep, no run or sweep of wandb's, and no task of srun's."""
    (tmp_path / "dcnlab").mkdir()
    (tmp_path / "dcnlab/__init__.py").touch()  # or a PYTHONPATH of the user's with a whole package would come first
    (tmp_path / "dcnlab/__main__.py").write_text("import json, os; print(json.dumps(dict(os.environ)))")
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path / "dcnlab")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "another")
    for name in ("JOB_ID", "NTASKS", "NTASKS_PER_NODE", "PROCID", "STEP_ID", "STEP_NUM_TASKS", "TASK_PID"):
        monkeypatch.setenv(f"SLURM_{name}", "7")
    child = children.start(["fit"], tmp_path / "log.txt", children.Slot("2,3", 5), {"DCNLAB_SWEEP": "s"})
    assert child.process.wait(GUARD) == 0
    found = json.loads((tmp_path / "log.txt").read_text())
    wanted = {"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "5", "NUMBA_NUM_THREADS": "5", "DCNLAB_SWEEP": "s"}
    assert wanted.items() <= found.items()
    assert found[parent_death.PARENT] == str(os.getpid())
    assert [name for name in found if name.startswith(("WANDB_", "SLURM_"))] == ["SLURM_JOB_ID"]  # it is no task
    assert os.getpgid(0) != child.process.pid


AGENTS = {
    "model.deform_layers": 1,
    "model.dilation": None,
    "optim.milestones": [0.5, 0.75],
    "optim.lr": 1e-05,
    "logger.entity": None,
    "data.classes": ["1", "7"],
    "trainer.keep_best": False,
    "optim.name": "sgd",
    "data": {"scale": [1.0, 2.0], "test_length": None},
}


@pytest.mark.parametrize("file", [True, False], ids=["with the agent's file", "without it"])
def test_args_no_hyphens_equal_args_json_file(tiny, monkeypatch, file):
    """wandb's own code makes the words and the file; fixed words of the command are not parameters."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
    from wandb.sdk.lib.config_util import save_config_file_from_dict

    specs = {name: {"value": value} for name, value in AGENTS.items()}
    made = create_sweep_command_args({"args": specs})
    Path("args.json").write_text(made["args_json"][0])
    wanted = load_experiment(tiny, ["args.json", "id=one"])
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    if file:
        save_config_file_from_dict(str(Path("wandb/params.yaml").absolute()), specs)
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(Path("wandb/params.yaml").absolute()))
    found = load_experiment(tiny, [*made["args_no_hyphens"], "id=one"])
    if not file:  # a key of no weight for what is computed may be the command's own
        found.sweep["logger.entity"] = None
    assert found == wanted
    assert wanted.sweep["data.scale"] == [1.0, 2.0]


def test_command_line_keys_are_no_sweep_parameters(tiny, monkeypatch):
    """With an agent's parameter file, other KEY=VALUE words are settings; a wrong key names the nearest."""
    from wandb.sdk.lib.config_util import save_config_file_from_dict

    save_config_file_from_dict(str(Path("wandb/params.yaml").absolute()), {"seed": {"value": 3}})
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(Path("wandb/params.yaml").absolute()))
    found = load_experiment(tiny, ["seed=3", "optim.lr=0.5"])
    assert (found.sweep, found.seed, found.optim.lr) == ({"seed": 3}, 3, 0.5)
    assert load_experiment(tiny, ["seed=3", "seed=4"]).sweep == {"seed": 4}
    with pytest.raises(ConfigError, match="no such key sede; nearest: seed"):
        load_experiment(tiny, ["seed=3", "sede=4"])


def test_variables_of_the_command_reach_its_trials(sweep):
    """Variables before `dcnlab fit` are set, except those that the launcher itself needs."""
    words = ["${env}", "OMP_NUM_THREADS=3", "DCNLAB_PARENT=1", "dcnlab", "fit", "${program}", "${args_json_file}"]
    path = sweep({"seed": {"value": 1}}, command=words)
    slot = children.Slot("1", 2)
    environ = [b""]
    while environ == [b""]:  # the process may have ended before it is looked at
        child = children.start(["--version"], Path("log.txt"), slot, launch.variables(read(path)))
        environ = Path(f"/proc/{child.process.pid}/environ").read_bytes().split(b"\0")
        child.process.wait()
    assert b"OMP_NUM_THREADS=3" in environ
    assert b"MKL_NUM_THREADS=2" in environ
    assert f"DCNLAB_PARENT={os.getpid()}".encode() in environ


def test_a_resumed_run_takes_only_the_sweeps_parameters(tiny):
    """On resume wandb's server gives the whole config of the run, with wandb's own keys."""
    from dcnlab.training.loggers import wandb_run

    first = load_experiment(tiny, ["id=one"], {"model.deform_layers": 1, "seed": 3})
    Path("args.json").write_text(json.dumps({**wandb_run.config(first), "_wandb": {"t": 1}}))
    assert load_experiment(tiny, ["args.json", "id=one"]) == first
