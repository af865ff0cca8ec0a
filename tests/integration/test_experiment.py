"""A run leaves what the contract says, however it ends."""

import csv
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from command_line import complaints, dcnlab, environment, python, start
from processes import GUARD, await_
from torch import nn

from dcnlab.config.load import load_experiment, load_run
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.file_lock import lock
from dcnlab.metrics import image_records
from dcnlab.models.counting import count_macs
from dcnlab.models.resnet import resnet10_slim
from dcnlab.training import outcome
from dcnlab.training import run as runs
from dcnlab.training.build_trainer import accumulation
from dcnlab.training.callbacks import cost
from dcnlab.training.loggers import wandb_start
from dcnlab.training.run import evaluate, resume
from dcnlab.training.run_folder import RunFolder
from dcnlab.training.scores import metrics_of


def fit(path, *overrides):
    return runs.fit(load_experiment(path, ["logger.wandb=false", *overrides]))


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_run_folder_has_the_files_and_keys_of_the_contract(tiny, tmp_path):
    """results.json has its documented keys in order, with the parameters of the sweep."""
    args = tmp_path / "args.json"
    args.write_text('{"model.deform_layers": 1, "seed": 3}')
    folder = runs.fit(load_experiment(tiny, [str(args), "id=one"]))
    assert folder == Path("runs/tiny/one")
    found = results(folder)
    assert list(found) == [
        "schema", "name", "status", "end", "seed", "parameters", "metrics", "model", "cost", "environment", "wandb",
    ]  # fmt: skip
    assert (found["schema"], found["name"], found["status"], found["seed"]) == (1, "tiny", "finished", 3)
    assert found["parameters"] == {"model.deform_layers": 1, "seed": 3}
    assert 0 <= found["metrics"]["top1"] <= found["metrics"]["top5"] <= 100
    assert set(found["cost"]) == {"train_seconds", "images_per_second", "peak_memory_bytes"}
    assert found["cost"]["peak_memory_bytes"] > 1e8
    assert {"git", "torch", "cuda", "gpu", "world_size"} <= set(found["environment"])
    assert found["environment"]["world_size"] == 1
    assert load_run(folder).model.deform_layers == 1
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["train/loss"]) for row in rows) == 2
    # wandb: offline, in the run folder, and known by the results.
    assert list(folder.glob(f"wandb/offline-run-*-{found['wandb']['id']}/run-*.wandb"))
    assert not Path("wandb").exists()


def test_the_first_weights_are_recorded_and_kept_by_resuming(tiny):
    """results.json names the file of the first weights and its hash; resuming after the file is gone keeps both."""
    torch.save(resnet10_slim(10).state_dict(), "first.pt")
    expected = hashlib.sha256(Path("first.pt").read_bytes()).hexdigest()
    run = fit(tiny, "model.backbone.weights=first.pt", "id=first")
    recorded = results(run)["model"]["weights"]
    assert recorded == {"name": "first.pt", "address": str(Path("first.pt").absolute()), "sha256": expected}
    Path("first.pt").unlink()
    (run / "results.json").unlink()
    resume(run, ["trainer.max_steps=3"])
    assert results(run)["model"]["weights"] == recorded


def test_weights_depend_on_the_seed_alone(tiny):
    """Two runs of one seed have equal weights; a run of another seed differs."""
    weights = [
        torch.load(fit(tiny, f"id={name}", f"seed={seed}") / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    equal = [all(torch.equal(weights[0][key], other[key]) for key in other) for other in weights[1:]]
    assert equal == [True, False]


def test_evaluate_repeats_the_metrics_and_writes_nothing(tiny):
    """`dcnlab evaluate` returns the metrics in results.json and changes no file of the run folder."""
    folder = fit(tiny, "id=one", "trainer.max_steps=4")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert evaluate(folder, []) == results(folder)["metrics"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before


class _Stop(cost.Cost):
    """Raises in the middle of the second pass."""

    error: BaseException = KeyboardInterrupt()
    state_key = "Cost"

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        if trainer.global_step == 3:
            raise self.error


@pytest.fixture
def keep_sigint():
    """Lightning ignores further Ctrl-C once it has seen one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_resumes_to_the_same_weights(tiny, monkeypatch, keep_sigint):
    """Weights, logged losses and metrics equal those of an uninterrupted run; a second resume is refused."""
    whole = fit(tiny, "id=whole", "trainer.max_steps=6")
    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.parts.Cost", _Stop)
        with pytest.raises(outcome.Interrupted):
            fit(tiny, "id=part", "trainer.max_steps=6")
    part = Path("runs/tiny/part")
    assert results(part)["status"] == "interrupted"
    monkeypatch.chdir(part)
    assert resume(Path()) == Path()  # as `dcnlab resume .` does
    monkeypatch.chdir(Path(tiny).parent)
    assert results(part)["name"] == "tiny"
    assert results(part)["status"] == "finished"
    assert results(part)["metrics"] == results(whole)["metrics"]
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, part)]
    assert all(torch.equal(ends[0]["state_dict"][key], value) for key, value in ends[1]["state_dict"].items())
    steps = []
    for run in (whole, part):
        with (run / "metrics.csv").open() as file:
            steps.append([(row["step"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert steps[0] == steps[1]
    with pytest.raises(ConfigError, match="is finished; there is nothing to resume"):
        resume(part)


ONE_RATE = ("optim.milestones=[]", "data.train_length=48", "data.val=null")  # three steps a pass


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("first", [2, 3])
def test_a_finished_run_can_be_trained_longer(tiny, first):
    """Two steps end within an epoch, whose other images come next; three end with the epoch."""
    whole = fit(tiny, "id=whole", "trainer.max_steps=5", *ONE_RATE)
    part = fit(tiny, "id=part", f"trainer.max_steps={first}", *ONE_RATE)
    before = results(part)
    assert resume(part, ["trainer.max_steps=5", "trainer.checkpoint_every=1"]) == part
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, part)]
    assert all(torch.equal(ends[0]["state_dict"][key], value) for key, value in ends[1]["state_dict"].items())
    assert (ends[0]["global_step"], ends[0]["lr_schedulers"]) == (5, ends[1]["lr_schedulers"])
    assert losses(whole) == losses(part)
    found = results(part)
    assert (found["status"], found["metrics"]) == ("finished", results(whole)["metrics"])
    changed = {"trainer.max_steps": 5, "trainer.checkpoint_every": 1.0}
    assert found["resumed"] == [{"step": first, "changed": changed, "metrics": before["metrics"]}]
    own = load_run(part)
    assert (own.trainer.max_steps, own.id, own.out) == (5, "part", "runs")


def test_a_killed_longer_training_keeps_its_new_length(tiny, monkeypatch):
    """After a kill before config.yaml was written, resume takes max_steps from the checkpoint."""
    whole = fit(tiny, "id=whole", "trainer.max_steps=6", *ONE_RATE)
    part = fit(tiny, "id=part", "trainer.max_steps=2", *ONE_RATE)
    files = [part / "config.yaml", part / "results.json"]
    old, there = [path.read_bytes() for path in files], []

    def stop(*arguments):
        there.extend(path.read_bytes() for path in files)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.scores.score_test_split", stop)
        with pytest.raises(outcome.Interrupted):
            resume(part, ["trainer.max_steps=4"])
    assert there == old  # what kill -9 leaves
    for path, content in zip(files, old, strict=True):
        path.write_bytes(content)
    resume(part)
    assert torch.load(part / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    resume(part, ["trainer.max_steps=6"])
    assert results(part)["metrics"] == results(whole)["metrics"]
    assert [entry["step"] for entry in results(part)["resumed"]] == [4, 4]


def test_learning_rate_follows_the_new_length(tiny, monkeypatch):
    """At the end of the shorter cosine it was nearly zero; it jumps to the longer schedule's value."""
    rates = []

    class Rates(cost.Cost):
        state_key = "Cost"

        def on_train_batch_start(self, trainer, *arguments):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    part = fit(tiny, "id=part", "trainer.max_steps=2", "optim.schedule=cosine", "optim.lr=0.1")
    monkeypatch.setattr("dcnlab.training.parts.Cost", Rates)
    resume(part, ["trainer.max_steps=4"])
    assert rates == pytest.approx([0.05, 0.1 * (1 + math.cos(math.pi * 3 / 4)) / 2])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "optim.lr=0.5",
            "optim.lr is 0.05 in runs/tiny/one and cannot become 0.5 there; put it back, or begin a new run: dcnlab",
        ),
        ("data.batch_size=8", "data.batch_size is 16 in runs/tiny/one"),
        ("id=other", "id is 'one' in runs/tiny/one"),
        ("model={deform_layers: 1}", "model.deform_layers is 0 in runs/tiny/one"),
        ("trainer.max_steps=1", "trainer.max_steps is 1, and runs/tiny/one has trained 2 steps; state at least 2"),
        ("trainer.max_step=4", "no such key trainer.max_step; nearest: trainer.max_steps"),
        (
            "test.rotation=5",
            "is finished; there is nothing to resume. More training: dcnlab resume runs/tiny/one train",
        ),
        ("trainer.max_epochs=1", "is finished; there is nothing to resume"),
    ],
)
def test_resume_refuses_other_settings_and_changes_nothing(tiny, override, says):
    """The error names the key, the trained value and the remedy; no byte of the run folder changes."""
    folder = fit(tiny, "id=one")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=re.escape(says)):
        resume(folder, [override])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failed_run_records_its_reason_and_raises(tiny, monkeypatch):
    """results.json says failed with the exception in one line; the exception still reaches the caller."""
    monkeypatch.setattr(_Stop, "error", RuntimeError("out of\nluck"))
    monkeypatch.setattr("dcnlab.training.parts.Cost", _Stop)
    with pytest.raises(RuntimeError, match="luck"):
        fit(tiny, "id=one", "trainer.max_steps=4")
    found = results(Path("runs/tiny/one"))
    assert (found["status"], found["reason"], found["metrics"]) == ("failed", "RuntimeError: out of luck", {})
    assert RunFolder(Path("runs/tiny/one")).read_results() == found


def test_sigterm_saves_and_prints_the_resume_command(tiny):
    """A run stopped by SIGTERM exits with 130, has status interrupted and keeps its training time."""
    process = start("fit", tiny, "id=one", "trainer.max_steps=100000")
    saved = Path("runs/tiny/one/checkpoints/last.ckpt")
    await_(lambda: saved.exists() or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=GUARD)
    assert (process.returncode, out) == (130, "")
    assert complaints(err) == ["interrupted; resume with: dcnlab resume runs/tiny/one"]
    assert results(Path("runs/tiny/one"))["status"] == "interrupted"
    assert results(Path("runs/tiny/one"))["cost"]["train_seconds"] > 0


def catches(process, number):
    """Whether a process has a handler of a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [caught] = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_run_stopped_before_any_checkpoint_restarts(tiny):
    """SIGTERM before the training prints the command that begins again, not a resume."""
    longer = ["trainer.max_steps=100000", "data.train_length=1000"]
    process = start("fit", tiny, "id=one", *longer)
    await_(lambda: catches(process, signal.SIGTERM) or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=GUARD)
    assert not Path("runs/tiny/one/checkpoints/last.ckpt").exists()
    words = f"fit {tiny} id=one trainer.max_steps=100000 data.train_length=1000"
    said = f"interrupted, nothing is saved; begin again with: dcnlab {words}\n"
    # Before it, Python may print an exception that it drops: the signal can come while numba compiles, in a callback.
    assert (process.returncode, out) == (130, ""), err
    assert err.endswith(said)


class _Finalising(cost.Cost):
    """Sends SIGTERM while a finaliser runs in step 2, where Python drops what a handler raises."""

    state_key = "Cost"

    def on_train_batch_end(self, trainer, *arguments):
        super().on_train_batch_end(trainer, *arguments)
        if trainer.global_step == 2:
            item = type("Item", (), {})()
            reference = weakref.ref(item, lambda gone: os.kill(os.getpid(), signal.SIGTERM))
            del item
            assert reference() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_during_a_finalizer_stops_the_run(tiny, monkeypatch):
    """Python drops an exception raised inside __del__; the signal must stop the run all the same."""
    monkeypatch.setattr("dcnlab.training.parts.Cost", _Finalising)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(outcome.Interrupted):
        fit(tiny, "id=one", "trainer.max_steps=1000")
    assert signal.getsignal(signal.SIGTERM) == before
    assert results(Path("runs/tiny/one"))["status"] == "interrupted"


def test_a_run_prints_only_its_run_folder(tiny):
    """stdout is the path, so that a script can use it; stderr holds no warning."""
    done = dcnlab("fit", tiny, "id=one")
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "runs/tiny/one\n", [])


@pytest.mark.slow
def test_two_ranks_share_a_folder_and_rank_0_prints(tiny):
    """Rank 0 alone prints, speed counts the images of both, and the record of test images is that of one rank."""
    done = dcnlab(
        "fit", tiny, "trainer.devices=2", "data.batch_size=8", "trainer.max_steps=4", "trainer.effective_batch=16"
    )
    assert (done.returncode, done.stdout.count("\n"), complaints(done.stderr)) == (0, 1, [])
    assert sum(line.startswith("run: ") for line in done.stderr.splitlines()) == 1
    [folder] = Path("runs/tiny").iterdir()
    assert done.stdout == f"{folder}\n"
    found = results(folder)
    assert found["environment"]["world_size"] == 2
    assert found["cost"]["images_per_second"] * found["cost"]["train_seconds"] == pytest.approx(64, rel=0.01)
    record = RunFolder(folder).test_images
    by_both = record.read_bytes()
    assert len(set(image_records.read(record).images)) == 40
    record.unlink()
    evaluate(folder, ["trainer.devices=1"])
    assert record.read_bytes() == by_both


def test_only_an_unfinished_run_is_overwritten(tmp_path):
    """A new run replaces a failed one but keeps log.txt; a finished run is refused."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.txt").write_text("kept")
    (folder / "config.yaml").write_text("seed: 0\n")
    sections = {key: {} for key in ("parameters", "metrics", "model", "cost", "environment")}
    RunFolder(folder).write_results({"schema": 1, "seed": 0, "status": "failed", **sections})
    RunFolder(folder).create()
    assert [path.name for path in folder.iterdir()] == ["log.txt"]
    RunFolder(folder).write_results({"schema": 1, "seed": 0, "status": "finished", **sections})
    with pytest.raises(ConfigError, match="holds a finished run"):
        RunFolder(folder).create()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "status": "done"}', '{"schema": 1}'])
def test_foreign_results_files_are_refused_in_one_line(tmp_path, text):
    """Empty, cut, of another schema or with an unknown status."""
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=r"results\.json: ") as caught:
        RunFolder(tmp_path).read_results()
    assert "\n" not in str(caught.value)


def test_a_failed_write_keeps_the_old_results(tmp_path, monkeypatch):
    """A full disk at fsync leaves the old results.json whole."""
    path = tmp_path / "results.json"
    write_whole(path, "old")

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_a_run_folder_is_locked_against_a_second_process(tmp_path):
    """The second process gets one line; after the first has ended the folder is free."""
    code = "import sys, pathlib; from dcnlab.io.file_lock import lock\nwith lock(pathlib.Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with lock(tmp_path / ".lock"):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert f"{tmp_path} is in use by another dcnlab process" in done.stderr
    assert subprocess.run(command, env=environment()).returncode == 0


def test_a_surviving_loader_does_not_hold_the_lock(tmp_path):
    """A forked child inherits the lock's file; after SIGKILL of the run the folder must be free."""
    code = (
        "import os, pathlib, signal, sys, time; from dcnlab.io.file_lock import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(3600); os._exit(0)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        assert process.wait(GUARD) == -signal.SIGKILL
        with lock(tmp_path / ".lock"):
            os.kill(child, 0)  # it still lives
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_folder_that_is_not_a_run_is_never_emptied(tmp_path):
    """A folder of the user's with a checkpoints folder of that name is refused and stays."""
    folder = tmp_path / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.pt").write_text("precious")
    (folder / ".lock").touch()
    with pytest.raises(ConfigError, match="mine is not a run folder and holds checkpoints; choose another id"):
        RunFolder(folder).create()
    assert (folder / "checkpoints" / "best.pt").read_text() == "precious"


def test_a_restarted_run_removes_old_results_and_pictures(tmp_path):
    """Dilation, robustness, figures and pictures of the last run are gone when the run begins again."""
    files = ("config.yaml", "dilation.json", "dilation_boxes.npz", "robustness.json")
    for name in (*files, "figures/0-sampling.png", "pictures/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    RunFolder(tmp_path).create()
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_sweep_do_not_block_the_run_folder(tmp_path):
    """parameters.json, log.txt and .lock exist before a trial starts and stay."""
    for name in ("parameters.json", "log.txt", ".lock"):
        (tmp_path / name).touch()
    RunFolder(tmp_path).create()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failed_run_does_not_leave_its_id_behind(tiny, monkeypatch):
    """DCNLAB_RUN_ID is unset again after a failed run, unless the user had set it."""
    with pytest.raises(ConfigError, match="99"):
        fit(tiny, "model.deform_layers=99", "model.deform_kernel_size=5")
    assert "DCNLAB_RUN_ID" not in os.environ
    monkeypatch.setenv("DCNLAB_RUN_ID", "given")
    with pytest.raises(ConfigError, match="99"):
        fit(tiny, "model.deform_layers=99", "model.deform_kernel_size=5")
    assert os.environ["DCNLAB_RUN_ID"] == "given"


def test_a_wandb_run_id_must_name_a_folder(tiny, monkeypatch):
    """WANDB_RUN_ID of ../../up would write outside the folder of the runs."""
    monkeypatch.setenv("WANDB_RUN_ID", "../../up")
    with pytest.raises(ConfigError, match=r"WANDB_RUN_ID is '\.\./\.\./up'; it names a folder"):
        fit(tiny)


def test_a_diverging_training_is_a_failed_run(tiny):
    """A learning rate of 1e30 stops within four steps with the value that is not finite."""
    with pytest.raises(
        ConfigError,
        match=r"^the training diverged in step [0123]: (train/loss|the gradient of .*) is (nan|inf|not finite)",
    ):
        fit(tiny, "id=one", "optim.lr=1e30", "trainer.max_steps=4")
    found = results(Path("runs/tiny/one"))
    assert found["status"] == "failed"
    assert "the training diverged" in found["reason"]


def test_a_nan_score_is_one_line_for_the_user():
    """It is reported as a diverged training that names the metric."""

    with pytest.raises(ConfigError, match=r"^the training diverged: test/top1 is nan"):
        metrics_of({"test/top1": float("nan")})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_training_fails_in_one_line(tiny, workers):
    """With and without loader workers, the error and results.json name the truncated file."""
    from PIL import Image

    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            folder = Path("insects") / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (32, 32), (9 * number, 0, 0)).save(folder / f"{number}.png")
    broken = Path("insects/train/bee/2.png")
    broken.write_bytes(broken.read_bytes()[:40])
    data = ["data.name=imagefolder", "data.root=insects", "data.batch_size=4", f"data.workers={workers}"]
    with pytest.raises(ConfigError, match=r"^insects/train/bee/2\.png cannot be read as an image") as caught:
        fit(tiny, "id=one", *data)
    assert "\n" not in str(caught.value)
    found = results(Path("runs/tiny/one"))
    assert found["status"] == "failed"
    assert "insects/train/bee/2.png cannot be read" in found["reason"]


def test_a_truncated_checkpoint_is_named_in_one_line(tiny):
    """evaluate and resume both refuse the first 1000 bytes of last.ckpt."""
    folder = fit(tiny, "id=one")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"^runs/tiny/one/checkpoints/last\.ckpt is not a whole checkpoint"):
        evaluate(folder, [])
    (folder / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"runs/tiny/one/checkpoints/last\.ckpt is not a whole checkpoint"):
        resume(folder)


def test_an_offline_run_opens_no_connection(tiny):
    """An audit hook sees every socket: only addresses of this machine may be used."""
    code = (
        "import sys, time\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        host = arguments[1] if event == 'socket.connect' else arguments\n"
        "        if isinstance(host, tuple) and host[0] not in ('127.0.0.1', 'localhost', '::1'):\n"
        "            print('CONNECTS', event, host, flush=True)\n"
        "sys.addaudithook(hook)\n"
        "sys.argv = ['dcnlab', 'fit', 'tiny.yaml', 'id=one']\n"
        "from dcnlab.cli import main as cli\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "runs/tiny/one\n", [])


@pytest.mark.parametrize(
    ("effective", "batch", "world", "batches"), [(None, 16, 2, 1), (64, 16, 1, 4), (64, 16, 2, 2), (16, 16, 1, 1)]
)
def test_accumulation_makes_the_effective_batch(tiny, effective, batch, world, batches):
    overrides = [f"trainer.effective_batch={'null' if effective is None else effective}", f"data.batch_size={batch}"]
    assert accumulation(load_experiment(tiny, overrides), world) == batches


@pytest.mark.parametrize(("effective", "batch", "world", "fits"), [(8, 16, 1, 8), (8, 8, 4, 2), (24, 16, 1, 8)])
def test_an_impossible_effective_batch_names_a_batch_size(tiny, effective, batch, world, fits):
    """The error names a data.batch_size that divides the effective batch on this number of ranks."""
    config = load_experiment(tiny, [f"trainer.effective_batch={effective}", f"data.batch_size={batch}"])
    with pytest.raises(ConfigError, match=rf"effective_batch is {effective}; .*; data.batch_size={fits} would do"):
        accumulation(config, world)


def test_an_accumulated_step_counts_as_one(tiny):
    """Four batches make one step in max_steps, and images per second count all of them."""
    folder = fit(tiny, "id=one", "trainer.effective_batch=32", "data.batch_size=8", "trainer.max_steps=2")
    found = results(folder)["cost"]
    assert found["images_per_second"] * found["train_seconds"] == pytest.approx(64, rel=0.01)
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.deform_layers=99", "model.deform_kernel_size=5"], "99"),
        (["data.classes=[cat]"], "cat"),
        (["data.train=trian"], "trian"),
        (["data.train=[train,val]"], "digits takes the name of one split"),
        (["data.name=imagefolder", "data.root=."], "train"),
        (["trainer.accelerator=gpu"], "trainer.accelerator is 'gpu'"),
    ],
)
def test_impossible_settings_are_one_line_without_a_folder(tiny, overrides, says):
    """Settings that pass the schema but cannot be built stop before a run folder is made."""
    if "trainer.accelerator=gpu" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=says) as caught:
        fit(tiny, *overrides)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_macs_equal_a_count_by_hand():
    """Strides, groups, linear layers and deformable layers with their offset convolution."""
    from dcnlab.nn import DeformConv2d

    plain = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 5 * 4, 6))
    image = torch.zeros(1, 3, 10, 8)
    assert count_macs(plain, image) == 8 * 5 * 4 * 3 * 9 + 160 * 6
    grouped = nn.Conv2d(4, 8, 3, groups=2, bias=False)
    assert count_macs(grouped, torch.zeros(2, 4, 5, 5)) == 2 * 8 * 3 * 3 * 2 * 9
    deformable = DeformConv2d(4, 8, 3, padding=1, bias=False)
    own, offsets = 8 * 6 * 7 * 4 * 9, 18 * 6 * 7 * 4 * 9
    assert count_macs(deformable, torch.zeros(1, 4, 6, 7)) == own + offsets
    assert plain.training


def test_wandb_is_offline_by_default(monkeypatch):
    """WANDB_MODE alone changes it; a wrong value names the nearest one."""
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_start.mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_start.mode() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ConfigError, match="WANDB_MODE is 'onlin'; nearest: online"):
        wandb_start.mode()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5 min")
    with pytest.raises(ConfigError, match="WANDB_FINISH_TIMEOUT is '5 min'; it must be a positive number of seconds"):
        wandb_start.mode()


def test_wandb_online_without_a_key_is_refused(tiny):
    """wandb's own code would wait for an answer on the terminal."""
    variables = {"WANDB_MODE": "online", "NETRC": "/nonexistent", "HOME": str(Path.cwd())}
    done = python("-P", "-m", "dcnlab", "fit", tiny, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dcnlab: WANDB_MODE is online, and there is no key: run `wandb login`, or unset WANDB_MODE\n"
    assert not Path("runs").exists()


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_ema_weights_are_saved_and_scored(tiny):
    """By hand: the average starts at the first step's weights, the next enters with 1 - decay."""
    one, two = (fit(tiny, f"id=plain{steps}", f"trainer.max_steps={steps}") for steps in (1, 2))
    newest, first, half = (fit(tiny, f"id=ema{decay}", f"optim.ema={decay}") for decay in (0, 1, 0.5))
    for key, value in weights(two).items():
        if value.is_floating_point():
            # The average begins with the first step's weights; the second step joins them with 1 - decay.
            assert torch.equal(weights(newest)[key], value)
            assert torch.equal(weights(first)[key], weights(one)[key])
            assert torch.allclose(weights(half)[key], (weights(one)[key] + value) / 2, atol=1e-6)
    assert results(newest)["metrics"] == results(two)["metrics"]
    assert results(first)["metrics"] == results(one)["metrics"]
    assert evaluate(half, []) == results(half)["metrics"]


def test_an_interrupted_ema_run_resumes_to_the_same_weights(tiny, monkeypatch, keep_sigint):
    """The averaged weights (optim.ema) of a resumed run equal those of an uninterrupted run."""
    whole = fit(tiny, "id=whole", "trainer.max_steps=6", "optim.ema=0.8")
    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.parts.Cost", _Stop)
        with pytest.raises(outcome.Interrupted):
            fit(tiny, "id=part", "trainer.max_steps=6", "optim.ema=0.8")
    part = Path("runs/tiny/part")
    resume(part)
    assert all(torch.equal(weights(whole)[key], value) for key, value in weights(part).items())
