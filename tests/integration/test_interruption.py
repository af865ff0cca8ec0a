"""Whatever stops a run, the same command, or `dcnlab resume`, leads to the run that nobody stopped."""

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
from command_line import complaints, python, start_python
from processes import GUARD

from dcnlab.config import identity
from dcnlab.config.load import load_experiment
from dcnlab.data.samplers import TrainingSampler
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.training import checkpoint_file, outcome, resume_checks
from dcnlab.training.callbacks import checkpoint, cost
from dcnlab.training.distributed import slurm_requeue
from dcnlab.training.loggers import metrics_csv
from dcnlab.training.run import fit
from dcnlab.training.run_folder import RunFolder

RUN = """
import os, sys
import torch
from dcnlab.cli import main as cli
from dcnlab.ops import deform_conv2d
from dcnlab.training import run
words = sys.argv[1:]
BEFORE
sys.argv = ["dcnlab", *words]
try:
    cli.main()
except SystemExit as exit:
    status = exit.code or 0
AFTER
sys.exit(status)
"""


class Run:
    """`dcnlab ARGUMENTS` in the current folder, after and before some Python of the test's."""

    def __init__(self, *arguments, before="", after=""):
        code = RUN.replace("BEFORE", before).replace("AFTER", after)
        with Path("out.txt").open("w") as out:
            streams = {"stdout": out, "stderr": subprocess.STDOUT}
            self.process = start_python("-c", code, *arguments, **streams, new_session=True)

    def kill(self):
        """Kill the run and its loaders."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self):
        """Exit status, and what was printed, errors included."""
        return self.process.wait(GUARD), Path("out.txt").read_text()


def state(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def equal(one, other):
    """Whether two nests of containers, tensors and numbers are the same to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_same_run(one, other):
    """The same weights, optimizer and schedule to the bit, the same rows of figures, the same results."""
    kept, others = state(one), state(other)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert equal(kept[key], others[key]), key
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    found = [RunFolder(folder).read_results() for folder in (one, other)]
    assert [result["status"] for result in found] == ["finished", "finished"]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert not [path for folder in (other, other / "checkpoints") for path in folder.glob(".*.*")]


SHORT = ("logger.wandb=false", "data.classes=[1,7]", "model.deform_layers=1", "trainer.max_steps=14")
PASSES = (*SHORT, "data.batch_size=4", "trainer.effective_batch=8")  # of four steps of two batches
ONE_PASS = (
    *SHORT,
    "data.batch_size=2",
    "data.train_length=64",
    "data.val=null",
)  # of 32 steps: no checkpoint but asked
SIGNAL = """
import signal
from dcnlab.training import parts
from dcnlab.training.callbacks import cost
class Cost(cost.Cost):
    def on_train_batch_end(self, trainer, *arguments):
        super().on_train_batch_end(trainer, *arguments)
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
parts.Cost = Cost
"""


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_weights(tiny):
    """After ten SIGKILLs at random times the run ends as an uninterrupted one does."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    settings = [*PASSES, "optim.ema=0.9"]
    python("-c", "pass")  # the first command of the tests takes longer
    began = time.monotonic()
    status, text = Run("fit", tiny, "id=whole", *settings).wait()
    assert status == 0, text
    seconds = time.monotonic() - began
    whole, part = Path("runs/tiny/whole"), Path("runs/tiny/part")
    kills = 0
    while kills < 10:
        run = Run("fit", tiny, "id=part", "trainer.checkpoint_every=0", *settings)
        time.sleep(moments.uniform(0.1, 0.7) * seconds)
        run.kill()
        status, text = run.wait()
        assert status in (0, -signal.SIGKILL), text
        if (part / "checkpoints/last.ckpt").exists():
            checkpoint_file.read(part / "checkpoints/last.ckpt")
        results = RunFolder(part).read_results() if part.exists() else None
        if status == 0:  # it was quicker than the kill
            assert_same_run(whole, part)
            shutil.rmtree(part)
        elif results and results["status"] == "finished":  # the kill came while the process ended
            shutil.rmtree(part)
        else:
            kills += 1
    status, text = Run("fit", tiny, "id=part", *settings).wait()
    assert status == 0, text
    assert_same_run(whole, part)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_slurms_time_limit_saves_within_an_epoch_and_requeues(tiny, workers):
    """The run saves at step 5, requeues its job, and continues to the uninterrupted run's weights."""
    settings = [*ONE_PASS, f"data.workers={workers}"]
    status, text = Run("fit", tiny, "id=whole", *settings).wait()
    assert status == 0, text
    scontrol = Path("bin/scontrol")
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > ' + f"{Path.cwd()}/requeued")
    scontrol.chmod(0o755)
    job = f"os.environ |= dict(SLURM_JOB_ID='12', PATH='{scontrol.parent.resolve()}:' + os.environ['PATH'])"
    status, text = Run("fit", tiny, "id=part", *settings, before=SIGNAL + job).wait()
    part = Path("runs/tiny/part")
    assert (status, complaints(text)) == (
        130,
        ["SLURM job 12 goes back into the queue", "interrupted; resume with: dcnlab resume runs/tiny/part"],
    )
    assert Path("requeued").read_text() == "requeue 12\n"
    assert RunFolder(part).read_results()["status"] == "interrupted"
    assert state(part)["global_step"] == 5
    status, text = Run("fit", tiny, "id=part", *settings).wait()  # as the job's script does
    assert (status, complaints(text)) == (
        0,
        ["runs/tiny/part was interrupted; resuming from step 5", "runs/tiny/part"],
    )
    assert_same_run(Path("runs/tiny/whole"), part)


def test_a_job_that_cannot_resume_is_not_requeued(monkeypatch, caplog):
    """Without id=NAME, without progress or inside a sweep the job stays out of the queue, and says why."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("DCNLAB_PARENT", raising=False)
    monkeypatch.setenv("PATH", "")
    with caplog.at_level("INFO", "dcnlab"):
        slurm_requeue.requeue(same_command_resumes=False, progressed=True)
        slurm_requeue.requeue(same_command_resumes=True, progressed=False)
        slurm_requeue.requeue(same_command_resumes=True, progressed=True)
        monkeypatch.setenv("DCNLAB_PARENT", "1")  # the job is the sweep's
        slurm_requeue.requeue(same_command_resumes=True, progressed=True)
    assert [record.getMessage() for record in caplog.records] == [
        "SLURM job 12 is not put back into the queue: it would begin a new run; state its name by id=NAME",
        "SLURM job 12 is not put back into the queue: it saved nothing new; give it more time (sbatch --time)",
        "SLURM job 12 cannot be put back into the queue: [Errno 2] No such file or directory: 'scontrol'",
    ]


def test_a_job_whose_test_exceeds_its_time_stops_requeuing(tiny, monkeypatch):
    """A second job that only runs the test saves nothing new, so it reports no progress to requeue."""

    class Cost(cost.Cost):
        def on_test_start(self, *arguments):
            raise outcome.Stopped(signal.SIGUSR1)

    asked = []
    monkeypatch.setattr("dcnlab.training.parts.Cost", Cost)
    monkeypatch.setattr(slurm_requeue, "requeue", lambda *arguments: asked.append(arguments))
    for _ in range(2):  # the first job trains; the second one finds all trained, and has only the test to do
        with pytest.raises(outcome.Interrupted):
            fit(load_experiment(tiny, ["id=one", "trainer.max_steps=1"]))
    assert asked == [(True, True), (True, False)]


def test_several_gpus_decide_on_saving_every_tenth_step(tiny, monkeypatch):
    """On GPUs asking costs a collective operation, so not every step asks; the end of the epoch does."""
    steps = []
    monkeypatch.setattr(checkpoint, "waits_for_gpu", lambda trainer: True)
    monkeypatch.setattr(
        checkpoint, "true_on_any_rank", lambda trainer, *flags: steps.append(trainer.global_step) or list(flags)
    )
    fit(load_experiment(tiny, ["id=one", *ONE_PASS]))
    assert steps == [10, 14]


MOUNT = """
import ctypes
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        print("not permitted:", name, os.strerror(ctypes.get_errno()))
        os._exit(77)
libc = ctypes.CDLL(None, use_errno=True)
call("unshare", 0x20000 | (0x10000000 if os.getuid() else 0))  # a mount namespace, for users within one of their own
call("mount", b"none", b"/", None, 0x44000, None)  # nobody else sees the mounts
def mount(size, flags=0):
    call("mount", b"tmpfs", b"runs", b"tmpfs", flags, f"size={size}".encode())
def dcnlab(*arguments):
    sys.argv = ["dcnlab", *arguments]
    try:
        cli.main()
    except SystemExit as exit:
        print("status", exit.code)
"""


def skip_unless_mounted(status, text):
    if status == 77:
        pytest.skip(f"mounting a small file system is {text}")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_whole_checkpoint(tiny):
    """ENOSPC gives one line and exit status 2; resume on a larger disk gives the same weights."""
    status, text = Run("fit", tiny, "id=whole", *PASSES).wait()
    assert status == 0, text
    size = Path("runs/tiny/whole/checkpoints/last.ckpt").stat().st_size
    kept = Path("runs").rename("kept")
    Path("runs").mkdir()
    room = size * 3 // 2  # for one checkpoint and not for two
    before = f"{MOUNT}\nmount({room})\ndcnlab('fit', 'tiny.yaml', 'id=part', *{PASSES!r})\n"
    before += f"mount({10 * size}, flags=32)\n"  # remounted, and larger
    after = "import shutil; shutil.copytree('runs', 'copy')"
    status, text = Run("resume", "runs/tiny/part", before=before, after=after).wait()
    skip_unless_mounted(status, text)
    assert complaints(text) == [
        "dcnlab: runs/tiny/part/checkpoints/last.ckpt: No space left on device; once there is room, "
        "dcnlab resume runs/tiny/part continues",
        "status 2",
        "runs/tiny/part",
    ]
    assert status == 0
    assert_same_run(kept / "tiny/whole", Path("copy/tiny/part"))


@pytest.mark.slow
def test_a_read_only_folder_can_be_evaluated_not_trained(tiny):
    """fit and resume fail in one line; evaluate prints its metrics."""
    Path("runs").mkdir()
    before = f"{MOUNT}\nmount(10**8)\ndcnlab('fit', 'tiny.yaml', 'id=one', 'trainer.max_steps=1', *{SHORT[:2]!r})\n"
    before += "mount(10**8, flags=33)\ndcnlab('resume', 'runs/tiny/one')\n"
    before += "dcnlab('fit', 'tiny.yaml', 'id=two')\n"
    status, text = Run("evaluate", "runs/tiny/one", before=before).wait()
    skip_unless_mounted(status, text)
    lines = complaints(text)
    assert lines[:2] == ["runs/tiny/one", "status None"]
    assert lines[2:6] == [
        f"dcnlab: {Path.cwd()}/runs/tiny/one/.lock: Read-only file system",
        "status 2",
        "dcnlab: runs/tiny/two: Read-only file system",
        "status 2",
    ]
    assert (status, lines[6].split()[0]) == (0, "top1")


def test_edits_of_trained_settings_are_refused_by_key(tiny):
    """optim.lr and seed must stay; max_steps, workers and devices may change, devices not within an epoch."""
    config = load_experiment(tiny)
    kept = {"dcnlab": {"settings": identity.settings(config), "pass": 1, "batches": 3, "processes": 2}}
    path = Path("last.ckpt")
    for edit in ("trainer.max_steps=9", "data.workers=3", "test.pictures=0", "trainer.devices=2"):
        resume_checks.check_fits(kept, load_experiment(tiny, [edit]), 2, path)
    for edit, says in (("optim.lr=0.01", "optim.lr 0.05, which is 0.01"), ("seed=1", "seed 0, which is 1")):
        with pytest.raises(ConfigError, match=rf"^last\.ckpt was trained with {says} now; put it back"):
            resume_checks.check_fits(kept, load_experiment(tiny, [edit]), 2, path)
    with pytest.raises(ConfigError, match="from within an epoch of 2 ranks, and there are 1 now"):
        resume_checks.check_fits(kept, config, 1, path)
    kept["dcnlab"]["batches"] = 0
    resume_checks.check_fits(kept, config, 1, path)
    with pytest.raises(ConfigError, match="does not say what made it"):
        checkpoint_file.check_trainable({}, path)


def test_a_resumed_epoch_has_the_images_not_yet_seen():
    """The next epoch is whole again, the same as without the interruption."""
    whole = TrainingSampler(10, seed=3, rank=1, world=2)
    whole.set_epoch(4)
    rest = TrainingSampler(10, seed=3, rank=1, world=2, start=(4, 3))
    assert list(rest) == list(whole)[3:]
    assert len(rest) == 5
    for sampler in (whole, rest):
        sampler.set_epoch(5)
    assert list(rest) == list(whole)


def test_metrics_csv_drops_the_rows_of_repeated_steps(tmp_path):
    """On resume, rows after the checkpoint and a line cut by a kill go; earlier rows stay."""
    path = tmp_path / "metrics.csv"
    log = metrics_csv.MetricsFile(path)
    log.log_metrics({"epoch": 0, "train/loss": 0.5}, 0)
    log.save()
    log.log_metrics({"epoch": 0, "train/loss": 0.25}, 1)
    log.save()
    log.log_metrics({"epoch": 0, "val/top1": 50.0}, 1)
    log.log_metrics({"epoch": 1, "train/loss": 0.125}, 2)
    log.finalize("success")
    whole = path.read_text()
    assert whole == "epoch,step,train/loss,val/top1\n0,0,0.5,\n0,1,0.25,\n0,1,,50.0\n1,2,0.125,\n"
    path.write_text(whole[:-9] + "1,1")  # the last line was 1,12,...
    again = metrics_csv.MetricsFile(path, upto=2)
    assert path.read_text() == whole[:-9] + "1,1"  # nothing is lost before the first new row is there
    again.log_metrics({"epoch": 1, "train/loss": 0.125}, 2)
    again.save()
    assert path.read_text() == whole


def test_a_full_disk_leaves_no_part_of_a_csv_row(tmp_path, monkeypatch):
    """The part of the row that was written is removed, and a later save writes it whole."""
    path = tmp_path / "metrics.csv"
    log = metrics_csv.MetricsFile(path)
    log.log_metrics({"loss": 0.5}, 0)
    log.save()
    log.log_metrics({"loss": 0.25}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left on device"):
            log.save()
    assert path.read_text() == "loss,step\n0.5,0\n"
    log.save()
    assert path.read_text() == "loss,step\n0.5,0\n0.25,1\n"


def test_temporary_files_of_failed_writes_are_removed(tmp_path, monkeypatch):
    """A failed write leaves no file; leftovers of a killed process are removed, the user's files stay."""
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space") as caught:
            write_whole(checkpoint, b"new")
    assert caught.value.filename == str(checkpoint)
    assert not list(checkpoint.parent.iterdir())
    names = (
        "checkpoints/.last.ckpt.123",
        ".results.json.9",
        ".metrics.csv.77",
        ".test_images.npz.8",
        ".lock",
        ".notes.txt.5",
        ".env",
    )
    for name in names:
        (tmp_path / name).touch()
    RunFolder(tmp_path).remove_temporaries()
    assert [name for name in names if (tmp_path / name).exists()] == [".lock", ".notes.txt.5", ".env"]
