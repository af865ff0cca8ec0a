"""Several processes of a run end together: with one line, one exit status, and none of them left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import complaints, dcnlab, environment, start, start_python
from ports import free_port
from processes import GUARD, alive, await_, children_of, processes_of
from small_experiments import write_data


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data()


def results(run):
    return json.loads((Path("runs") / run / "results.json").read_text())


@pytest.mark.slow
def test_a_broken_image_of_one_rank_stops_both(experiments):
    """The image is rank 1's; rank 0 waits for its gradient, and both exit with one line."""
    broken = sorted(Path("folders/train").rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    done = dcnlab("fit", "classification.yaml", "id=one", "trainer.devices=2")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = complaints(done.stderr)
    assert line.startswith(f"dcnlab: {broken} ")
    assert results("classification/one")["status"] == "failed"
    assert results("classification/one")["reason"].startswith("DataError: ")
    await_(lambda: not processes_of(Path.cwd()))


@pytest.mark.slow
def test_more_ranks_than_training_images_still_train(experiments):
    """Three ranks on two images finish with world size 3."""
    done = dcnlab("fit", "segmentation.yaml", "id=one", "trainer.devices=3", "data.train=pair", "trainer.max_steps=2",
                  "trainer.effective_batch=3")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "runs/segmentation/one\n"), done.stderr
    assert results("segmentation/one")["environment"]["world_size"] == 3


@pytest.mark.slow
def test_sigterm_to_rank_0_interrupts_all_ranks(experiments):
    """Rank 0 saves and prints the resume command, and no process is left."""
    process = start("fit", "classification.yaml", "id=one", "trainer.devices=2", "trainer.max_steps=100000")
    await_(Path("runs/classification/one/checkpoints/last.ckpt").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=GUARD)
    said = "interrupted; resume with: dcnlab resume runs/classification/one"
    assert (process.returncode, out, complaints(err)) == (130, "", [said])
    assert results("classification/one")["status"] == "interrupted"
    await_(lambda: not processes_of(Path.cwd()))


LONG = ["logger.wandb=false", "data.val=null", "trainer.max_steps=100000", "trainer.checkpoint_every=0"]


def by_hand(*arguments):
    """Two ranks of a run, as srun starts them: nobody ends one when the other ends."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"} for rank in range(2)]
    return [start(*arguments, "trainer.devices=2", **meet, **rank) for rank in ranks]


@pytest.mark.slow
def test_a_broken_image_of_rank_1_stops_both_ranks(experiments):
    """Without a launcher both ranks exit with 2, and one line names the file."""
    broken = sorted(Path("folders/train").rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    first, second = by_hand("fit", "classification.yaml", "id=one")
    said = [process.communicate(timeout=GUARD) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [2, 2]
    assert sum("dcnlab: " in err for _, err in said) == 1, said
    [line] = complaints("".join(err for _, err in said))
    assert line.startswith(f"dcnlab: {broken} ")
    assert results("classification/one")["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_before_rendezvous_stops_both(tiny, failing):
    """The failing rank alone is given a data set that is not there, as on a machine that lacks it."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    wrong = ["data.name=imagefolder", "data.root=missing"]
    ranks = [
        start(
            *("fit", tiny, "id=one", "trainer.devices=2", *(wrong if rank == failing else [])),
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            **meet,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=GUARD) for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    [line] = complaints("".join(err for _, err in said))
    assert line.startswith(f"dcnlab: {'rank 1: ' if failing else ''}data.root is ")
    assert "missing" in line


@pytest.mark.slow
def test_a_killed_loader_is_named_and_the_run_resumes(tiny):
    """The message names the loader, its rank, signal 9 and the settings that need less memory."""
    process = start("fit", tiny, "id=one", "data.workers=1", *LONG)
    await_(Path("runs/tiny/one/checkpoints/last.ckpt").exists)
    loader = children_of(process.pid)[-1]
    os.kill(loader, signal.SIGKILL)
    out, err = process.communicate(timeout=GUARD)
    died = f"loader process {loader} of rank 0 was killed by signal 9 (SIGKILL), often the kernel's for want of memory"
    said = f"dcnlab: {died}: fewer data.workers (1) or a smaller data.batch_size (16) need less"
    assert (process.returncode, out, complaints(err)) == (2, "", [said])
    assert (results("tiny/one")["status"], results("tiny/one")["reason"]) == ("interrupted", died)
    step = torch.load("runs/tiny/one/checkpoints/last.ckpt", weights_only=True)["global_step"]
    done = dcnlab("resume", "runs/tiny/one", f"trainer.max_steps={step + 1}")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "hand"])
def test_rank_0_reports_the_sigkill_of_rank_1(tiny, launcher):
    """Rank 0 exits with 2, names rank 1 and its signal, and the run can resume."""
    arguments = ["fit", tiny, "id=one", *LONG]
    first, *second = [start(*arguments, "trainer.devices=2")] if launcher == "lightning" else by_hand(*arguments)
    await_(Path("runs/tiny/one/checkpoints/last.ckpt").exists)
    killed = second[0].pid if second else children_of(first.pid)[0]
    os.kill(killed, signal.SIGKILL)
    out, err = first.communicate(timeout=GUARD)  # a collective would wait for half an hour
    died = f"rank 1 (process {killed}) was killed by signal 9 (SIGKILL), often the kernel's for want of memory"
    said = f"dcnlab: {died}; a smaller data.batch_size or fewer data.workers need less"
    assert (first.returncode, out, complaints(err)) == (2, "", [said])
    assert (results("tiny/one")["status"], results("tiny/one")["reason"]) == ("interrupted", died)
    for process in second:
        process.communicate(timeout=GUARD)
    await_(lambda: not processes_of(Path.cwd()))


@pytest.mark.slow
def test_rank_1_reports_the_sigkill_of_rank_0(tiny):
    """Rank 1 does not wait for the collective's timeout; results.json is absent, so fit resumes."""
    first, second = by_hand("fit", tiny, "id=one", *LONG)
    await_(Path("runs/tiny/one/checkpoints/last.ckpt").exists)
    first.kill()
    out, err = second.communicate(timeout=GUARD)
    died = f"rank 0 (process {first.pid}) was killed by signal 9 (SIGKILL), often the kernel's for want of memory"
    said = f"dcnlab: {died}; a smaller data.batch_size or fewer data.workers need less"
    assert (second.returncode, out, complaints(err)) == (2, "", [said])
    first.communicate(timeout=GUARD)
    assert not Path("runs/tiny/one/results.json").exists()  # so that the same command, and resume, go on


def test_rank_1_dies_with_its_parent(tmp_path):
    """SIGKILL of the process that started rank 1 ends rank 1 too."""
    module = "from dcnlab.training.distributed import parent_death"
    child = f"{module}; import time; parent_death.hold(); print('held', flush=True); time.sleep(3600)"
    first = (
        f"import os, subprocess, sys, time; {module}; parent_death.hold()\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], env={{**os.environ, 'LOCAL_RANK': '1'}})\n"
        "print(p.pid, flush=True); time.sleep(3600)"
    )
    process = subprocess.Popen([sys.executable, "-c", first], env=environment(), stdout=subprocess.PIPE, text=True)
    lines = {process.stdout.readline().strip() for _ in range(2)}
    pid = int((lines - {"held"}).pop())
    assert alive(pid)
    process.kill()
    process.wait()
    await_(lambda: not alive(pid))


IMPATIENT = """
from dcnlab.cli.main import main
from dcnlab.training.distributed import early_failure, rendezvous
early_failure.LISTEN_SECONDS = 1.0
rendezvous._SAY_SECONDS["machines"] = rendezvous._REPEAT_SECONDS = 0.1
main()
"""
"""The command line. Rank 0 waits a second, and not thirty, to tell late ranks of its failure; it often says so."""


@pytest.mark.slow
def test_waiting_for_another_machine_can_be_stopped(tiny):
    """Rank 0 listens, rank 1 meets a closed port: a line each, repeated, ended by a signal or the time limit."""
    command = ["fit", tiny, "trainer.num_nodes=2", "logger.wandb=false"]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    late = start_python("-P", "-c", IMPATIENT, *command, "id=late", "trainer.rendezvous_minutes=0.02")
    first = start(*command, "id=first")
    second = start(*command, "id=second", NODE_RANK="1", **meet)
    for process, number in ((second, signal.SIGTERM), (first, signal.SIGINT)):
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("waiting for 1 of 2 machines at 127.0.0.1:") for line in lines)
        process.send_signal(number)
        out, err = process.communicate(timeout=GUARD)
        assert (process.returncode, out) == (130, "")
        [line] = complaints(err)
        said = f"interrupted, nothing is saved; begin again with: dcnlab fit {tiny} trainer.num_nodes=2 "
        assert line.startswith(said)
    assert results("tiny/first")["status"] == "interrupted"
    out, err = late.communicate(timeout=GUARD)
    assert (late.returncode, out) == (2, "")
    *waits, end = complaints(err)
    assert len(waits) > 1
    assert {line[:31] for line in waits} == {"waiting for 1 of 2 machines at "}
    assert "1 of 2 machines" in end
    assert "within 0.02 minutes (trainer.rendezvous_minutes)" in end


@pytest.mark.slow
def test_two_machines_that_meet_make_one_run(tiny):
    """Two nodes with one rank each write one run folder with world size 2."""
    command = ["fit", tiny, "trainer.num_nodes=2", "logger.wandb=false", "id=two"]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    second = start(*command, NODE_RANK="1", **meet)
    done = dcnlab(*command, NODE_RANK="0", **meet)
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "runs/tiny/two\n", [])
    second.communicate(timeout=GUARD)
    assert second.returncode == 0
    assert results("tiny/two")["environment"]["world_size"] == 2
