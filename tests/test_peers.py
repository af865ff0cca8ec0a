"""Several processes of a run end together: with one line, one exit status, and none of them left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import dcnlab, environment
from small_experiments import write_data


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data()


def results(run):
    return json.loads((Path("runs") / run / "results.json").read_text())


def processes_of(folder):
    """Processes that work in `folder`, but for this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where, words = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if where == str(folder) and int(process.name) != os.getpid() and words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def await_(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_broken_image_of_one_process_ends_both_with_one_line(experiments):
    """The image is the second process's, while the first one waits for its gradient."""
    broken = sorted(Path("folders/train").rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    done = dcnlab("fit", "classification.yaml", "id=one", "trainer.devices=2")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"dcnlab: {broken} ")
    assert results("classification/one")["status"] == "failed"
    assert results("classification/one")["reason"].startswith("ValueError: ")
    await_(lambda: not processes_of(Path.cwd()), 30)


@pytest.mark.slow
def test_sigterm_to_the_first_process_interrupts_both(experiments):
    command = [sys.executable, "-P", "-m", "dcnlab", "fit", "classification.yaml", "id=one", "trainer.devices=2"]
    command += ["trainer.max_steps=100000"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_(Path("runs/classification/one/checkpoints/last.ckpt").exists, 240)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    said = "interrupted; go on with: dcnlab resume runs/classification/one\n"
    assert (process.returncode, out, err) == (130, "", said)
    assert results("classification/one")["status"] == "interrupted"
    await_(lambda: not processes_of(Path.cwd()), 30)


@pytest.mark.slow
def test_torchruns_processes_make_one_run_and_die_with_it(experiments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "dcnlab", "fit", "classification.yaml", "trainer.devices=2", "id=one"]
    process = subprocess.Popen([*command, "trainer.max_steps=100000"], env=environment())
    checkpoint = Path("runs/classification/one/checkpoints/last.ckpt")
    await_(checkpoint.exists, 240)
    assert len(processes_of(Path.cwd())) == 3
    process.kill()
    process.wait()
    await_(lambda: not processes_of(Path.cwd()), 60)
    assert torch.load(checkpoint, weights_only=True)["dcnlab"]["processes"] == 2
    assert [folder.name for folder in Path("runs/classification").iterdir()] == ["one"]


def test_a_process_of_a_run_dies_with_the_first_one_that_started_it(tmp_path):
    child = "from dcnlab import lifeline; import time; lifeline.hold(); print('held', flush=True); time.sleep(60)"
    first = (
        "import os, subprocess, sys, time; from dcnlab import lifeline; lifeline.hold()\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], env={{**os.environ, 'LOCAL_RANK': '1'}})\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", first], env=environment(), stdout=subprocess.PIPE, text=True)
    lines = {process.stdout.readline().strip() for _ in range(2)}
    pid = int((lines - {"held"}).pop())
    os.kill(pid, 0)
    process.kill()
    process.wait()
    await_(lambda: not Path(f"/proc/{pid}").exists(), 20)


@pytest.mark.slow
def test_a_process_whose_other_machine_never_comes_says_so_and_ends_by_signals_or_in_time(tiny):
    """Rank 0 listens, rank 1 knocks at a closed port; each says one line, and neither hangs in torch's rendezvous."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "dcnlab", "fit", tiny, "trainer.num_nodes=2", "logger.wandb=false"]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    late = subprocess.Popen([*command, "id=late", "trainer.rendezvous_minutes=0.01"], env=environment(), **pipes)
    first = subprocess.Popen([*command, "id=first"], env=environment(), **pipes)
    second = subprocess.Popen([*command, "id=second"], env=environment(NODE_RANK="1", **meet), **pipes)
    for process, number, name in ((second, signal.SIGTERM, "second"), (first, signal.SIGINT, "first")):
        assert process.stderr.readline().startswith("waiting for 1 of 2 machines at 127.0.0.1:")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        said = f"interrupted; go on with: dcnlab resume runs/tiny/{name}\n"
        assert (process.returncode, out, err) == (130, "", said)
    assert results("tiny/first")["status"] == "interrupted"
    out, err = late.communicate(timeout=20)
    assert (late.returncode, out) == (2, "")
    assert "1 of 2 machines" in err
    assert "within 0.01 minutes (trainer.rendezvous_minutes)" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_two_machines_that_meet_make_one_run(tiny):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "dcnlab", "fit", tiny, "trainer.num_nodes=2", "logger.wandb=false", "id=two"]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    second = subprocess.Popen(command, env=environment(NODE_RANK="1", **meet))
    done = dcnlab(*command[4:], NODE_RANK="0", **meet)
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs/tiny/two\n", "")
    assert second.wait(60) == 0
    assert results("tiny/two")["environment"]["world_size"] == 2
