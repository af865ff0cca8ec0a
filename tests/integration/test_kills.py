"""Each process of a two-rank run is killed at chance moments: the same command ends with the same weights.

Each process of one run is killed once; DCNLAB_KILLS=10 kills each of them ten times.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command_line import dcnlab, start
from processes import GUARD, children_of
from small_experiments import TINY

TIMES = int(os.environ.get("DCNLAB_KILLS", "1"))
STEPS = 60
RUN = ["trainer.devices=2", "data.workers=1", "data.batch_size=8", f"trainer.max_steps={STEPS}", "data.val=null"]
RUN += ["trainer.checkpoint_every=0", "logger.wandb=false", "optim.ema=0.9", "data.train_length=128"]
FINISHED = "holds a finished run"
"""What `fit` says where a kill came after the last checkpoint and results.json."""
VICTIMS = ["rank 0", "rank 1", "loader of rank 0", "loader of rank 1"]


def find(victim, first):
    """The process that is to be killed, once it is there; None when the run ends before."""
    while first.poll() is None:
        try:
            children = children_of(first.pid)
            second, loaders = children[:1], children[1:]  # in the order in which they came
            found = {
                "rank 0": [first.pid],
                "rank 1": second,
                "loader of rank 0": loaders,
                "loader of rank 1": children_of(second[0]) if second else [],
            }[victim]
        except OSError:
            continue
        if found and (victim != "rank 0" or second):
            return found[-1]
        time.sleep(0.01)
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of the run that nobody killed."""
    home = tmp_path_factory.mktemp("whole")
    (home / "tiny.yaml").write_text(TINY)
    with contextlib.chdir(home):
        done = dcnlab("fit", "tiny.yaml", "id=whole", *RUN)
    assert done.returncode == 0, done.stderr
    return torch.load(home / "runs/tiny/whole/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.timeout(1200 * TIMES)
def test_a_run_with_killed_processes_ends_with_same_weights(tiny, whole):
    """SIGKILL of rank 0, rank 1 or a loader, then the same command: the weights do not change."""
    numbers, victims = random.Random(0), VICTIMS * TIMES
    while victims:
        with Path("err.txt").open("w") as err:
            process = start("fit", tiny, "id=part", *RUN, stdout=subprocess.DEVNULL, stderr=err)
            number = find(victims[-1], process)
            time.sleep(numbers.uniform(0, 2))
            if number is not None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(number, signal.SIGKILL)
            status = process.wait(GUARD)
        # The run was quicker than this kill, or than the one before it.
        if status == 0 or FINISHED in Path("err.txt").read_text():
            shutil.rmtree("runs/tiny/part")
            continue
        victim = victims.pop()
        assert status == (-signal.SIGKILL if victim == "rank 0" else 2), victim + Path("err.txt").read_text()
        if victim != "rank 0":
            assert "was killed by signal 9 (SIGKILL)" in Path("err.txt").read_text()
    done = dcnlab("fit", tiny, "id=part", *RUN)
    assert done.returncode == 0 or FINISHED in done.stderr, done.stderr
    part = torch.load("runs/tiny/part/checkpoints/last.ckpt", weights_only=True)
    assert whole["global_step"] == part["global_step"] == STEPS
    torch.testing.assert_close(part["state_dict"], whole["state_dict"], rtol=0, atol=0)
    momentum, expected = ([state["state"] for state in kept["optimizer_states"]] for kept in (part, whole))
    torch.testing.assert_close(momentum, expected, rtol=0, atol=0)
