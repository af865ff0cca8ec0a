"""No command takes a checkpoint away, and no run is trained from or scored on numbers that are not its own."""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_experiments import TINY

from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.models import weights
from dcnlab.training import checkpoint_file, export, outcome
from dcnlab.training.callbacks import cost
from dcnlab.training.outcome import Diverged
from dcnlab.training.run import evaluate, fit, restore, resume
from dcnlab.training.run_folder import RunFolder

STEPS = 4
"""That the checkpoint of `unfinished` holds, of 6."""
BASE = ("id=one", "logger.wandb=false", "trainer.max_steps=6", "data.val=null", "optim.ema=0.9")


class Stopping(cost.Cost):
    """Raises in step 5."""

    state_key = "Cost"
    error: BaseException = KeyboardInterrupt()

    def on_train_batch_end(self, trainer, *arguments):
        super().on_train_batch_end(trainer, *arguments)
        if trainer.global_step == STEPS + 1:
            raise self.error


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that was stopped in step 5, whose checkpoint holds 4 steps."""
    home = tmp_path_factory.mktemp("unfinished")
    (home / "tiny.yaml").write_text(TINY)
    sigint = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(home):
        patch.setattr("dcnlab.training.parts.Cost", Stopping)
        with pytest.raises(outcome.Interrupted):
            fit(load_experiment("tiny.yaml", [*BASE, "trainer.checkpoint_every=0"]))
    signal.signal(signal.SIGINT, sigint)
    return home / "runs"


@pytest.fixture
def run(unfinished, tiny):
    """A copy of it in the current folder."""
    shutil.copytree(unfinished, "runs")
    folder = Path("runs/tiny/one")
    assert step(RunFolder(folder).checkpoint) == STEPS
    return folder


def step(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


def kept_steps():
    """Steps of every checkpoint below runs/."""
    return [step(path) for path in Path("runs").rglob("*.ckpt")]


def leave_as(folder, status, **more):
    """Write the results.json that a run leaves; none where it was killed."""
    if status == "killed":
        (folder / "results.json").unlink()
    else:
        results = json.loads((folder / "results.json").read_text())
        del results["end"]
        RunFolder(folder).write_results(results | {"status": status} | more)


def edit(path, change):
    """Change what a checkpoint holds."""
    kept = torch.load(path, weights_only=True)
    change(kept)
    torch.save(kept, path)


@pytest.fixture
def trained(monkeypatch):
    """The step at which each `fit` would begin to train, None for a new run; nothing is trained."""
    steps = []

    def train(config, parts, folder, resumption, *more):
        steps.append(resumption and resumption.step)

    monkeypatch.setattr("dcnlab.training.run._train", train)
    return steps


FORBIDDEN = {"optim.lr=0.5": "optim.lr is 0.05 in", "seed=7": "seed is 0 in", "data.batch_size=8": "data.batch_size is"}
GOES_ON = ("trainer.threads=1", "data.workers=1", "trainer.max_steps=9", "test.rotation=5")
LEFT = {
    "interrupted": {"end": "interrupted"},
    "interrupted by the time limit": {"status": "interrupted", "end": "time limit"},
    "killed": {},
    "failed by a bug": {"status": "failed", "end": "bug", "reason": "RuntimeError: CUDA error"},
    "failed, and the user can mend it": {"status": "failed", "end": "mend", "reason": "OSError: no space"},
    "failed, of an older version": {"status": "failed", "reason": "RuntimeError: CUDA error"},
}


@pytest.mark.parametrize("left", LEFT)
def test_fit_resumes_every_unfinished_run_but_no_other_one(run, tiny, trained, left, caplog):
    """Whatever ended the run, fit resumes at its step; settings of another run are refused."""
    leave_as(run, **{"status": left, **LEFT[left]})
    files = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    for change in GOES_ON:
        caplog.clear()
        with caplog.at_level("INFO", "dcnlab"):
            fit(load_experiment(tiny, [*BASE, change]))
        [line] = [record.getMessage() for record in caplog.records]
        assert f"{run} " in line
        assert f"resuming from step {STEPS}" in line
        assert (change.partition("=")[0] in line) is (change != "trainer.threads=1")
    assert trained == [STEPS] * len(GOES_ON)
    for change, says in FORBIDDEN.items():
        with pytest.raises(ConfigError, match=rf"^{re.escape(says)}.*put it back, or begin a new run: dcnlab fit"):
            fit(load_experiment(tiny, [*BASE, change]))
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("change", ["trainer.threads=1", "optim.lr=0.5"])
@pytest.mark.parametrize("reason", [{"end": "diverged"}, {"reason": "Diverged: the training diverged in step 5"}])
def test_a_diverged_run_restarts_and_keeps_its_old_folder(run, tiny, trained, reason, change, caplog):
    """The old folder is renamed to one.diverged-1, whether or not the settings changed."""
    leave_as(run, "failed", **reason)
    with caplog.at_level("INFO", "dcnlab"):
        fit(load_experiment(tiny, [*BASE, change]))
    aside = Path("runs/tiny/one.diverged-1")
    assert [record.getMessage() for record in caplog.records] == [
        f"{run} diverged; it is kept as {aside}, and the run begins anew"
    ]
    assert trained == [None]
    assert step(RunFolder(aside).checkpoint) == STEPS
    assert RunFolder(aside).read_results()["status"] == "failed"
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.yaml"]


def test_a_finished_run_only_trains_longer(run, tiny, trained, monkeypatch, caplog):
    """fit refuses a finished run, except for a larger max_steps; a requeued job exits well."""
    edit(RunFolder(run).checkpoint, lambda kept: kept.update(global_step=6))
    leave_as(run, "finished")
    for change, says in (("trainer.threads=1", "holds a finished run; choose another id"), *FORBIDDEN.items()):
        with pytest.raises(ConfigError, match=re.escape(says)):
            fit(load_experiment(tiny, [*BASE, change]))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with caplog.at_level("INFO", "dcnlab"):
        assert fit(load_experiment(tiny, BASE)) == run
    assert caplog.records[-1].getMessage() == f"{run} is finished; the requeued job has nothing left to do"
    assert trained == []
    fit(load_experiment(tiny, [*BASE, "trainer.max_steps=9"]))
    assert trained == [6]


ENDS = {
    "interrupted": KeyboardInterrupt(),
    "time limit": outcome.Stopped(signal.SIGUSR1),
    "mend": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt"),
    "bug": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "diverged": Diverged("the training diverged in step 5"),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_a_run_is_named_and_keeps_a_checkpoint(run, tiny, monkeypatch, end):
    """results.json names the end, the checkpoint survives, and the same command finishes the run."""
    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.parts.Cost", Stopping)
        patch.setattr(Stopping, "error", ENDS[end])
        sigint = signal.getsignal(signal.SIGINT)
        with pytest.raises((outcome.Interrupted, OSError, RuntimeError, ConfigError)):
            fit(load_experiment(tiny, [*BASE, "data.workers=0"]))
        signal.signal(signal.SIGINT, sigint)
    results = RunFolder(run).read_results()
    assert results["end"] == end
    assert results["status"] == ("interrupted" if end in ("interrupted", "time limit") else "failed")
    assert max(kept_steps()) >= STEPS
    fit(load_experiment(tiny, BASE))
    assert RunFolder(run).read_results()["end"] == "finished"
    assert step(RunFolder(run).checkpoint) == 6
    aside = RunFolder(run.with_name("one.diverged-1")).checkpoint
    assert aside.exists() is (end == "diverged")
    assert end != "diverged" or step(aside) == STEPS


def test_unreadable_files_never_restart_a_run(run, tiny, trained):
    """A broken results.json, config.yaml or last.ckpt gives one line and stays as it is."""
    (RunFolder(run).previous_checkpoint).unlink()
    for name, content in (
        ("results.json", b"{"),
        ("config.yaml", b"optim: {lrr: 1}"),
        ("checkpoints/last.ckpt", b"PK"),
    ):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content)
        with pytest.raises(ConfigError, match=r"\A[^\n]*" + re.escape(name) + r"[^\n]*\Z"):
            fit(load_experiment(tiny, BASE))
        assert (run / name).read_bytes() == content
        (run / name).write_bytes(whole)
    assert trained == []
    assert kept_steps() == [STEPS]


def test_a_flipped_bit_selects_the_previous_checkpoint(run, caplog):
    """Of 60 single-bit faults in last.ckpt each is harmless, or it is detected and previous.ckpt is used."""
    whole, weights = (
        (RunFolder(run).checkpoint).read_bytes(),
        torch.load(RunFolder(run).checkpoint, weights_only=True),
    )
    before = torch.load(RunFolder(run).previous_checkpoint, weights_only=True)
    assert before["global_step"] == STEPS - 1
    places = random.Random(0)
    older = 0
    for _ in range(60):
        content = bytearray(whole)
        content[places.randrange(len(whole))] ^= 1 << places.randrange(8)
        (RunFolder(run).checkpoint).write_bytes(content)
        caplog.clear()
        path, kept = checkpoint_file.newest(RunFolder(run))
        expected = weights if path == RunFolder(run).checkpoint else before
        older += expected is before
        assert kept["global_step"] == expected["global_step"]
        assert all(torch.equal(value, kept["state_dict"][key]) for key, value in expected["state_dict"].items())
        says = [f"{RunFolder(run).checkpoint} is damaged ("] if expected is before else []
        assert [record.getMessage()[: len(says[0])] for record in caplog.records] == says
    assert older > 50  # the others changed what is not read, such as a part's date


def test_a_damaged_checkpoint_does_not_replace_previous_ckpt(run, tiny, monkeypatch):
    """While last.ckpt is damaged, previous.ckpt stays the whole one until a new save succeeds."""
    content = bytearray((RunFolder(run).checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    (RunFolder(run).checkpoint).write_bytes(content)
    found = []

    def note(self, path):
        keep(self, path)
        found.append(step(path.with_name("previous.ckpt")))

    keep = checkpoint_file.WholeFiles._keep
    monkeypatch.setattr(checkpoint_file.WholeFiles, "_keep", note)
    fit(load_experiment(tiny, [*BASE, "trainer.checkpoint_every=0"]))
    assert found == [STEPS - 1, STEPS, STEPS + 1]  # after saving at 4, 5 and 6 steps; 3 is kept beside the damaged one
    assert step(RunFolder(run).checkpoint) == 6


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_or_nonfinite_weights_are_refused(tmp_path, legacy):
    """A NaN is refused with its tensor's name, a flipped bit by the file's checksum."""
    model = torch.nn.Module()
    model.conv1 = torch.nn.Conv2d(3, 64, 3)
    path = tmp_path / "weights.pth"
    state = model.state_dict()
    state["conv1.weight"][3, 0, 1, 1] = float("nan")
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError, match=r"^model\.backbone\.weights '.*' holds NaN or infinity in conv1\.weight$"):
        weights.load(model, "resnet50", str(path))
    if not legacy:  # torch's old format has no checksums
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot be read as a state dict .*does not match its checksum"):
            weights.load(model, "resnet50", str(path))


def drop(*keys):
    def change(kept):
        for key in keys[:-1]:
            kept = kept[key]
        del kept[keys[-1]]

    return change


def put(value, *keys):
    def change(kept):
        for key in keys[:-1]:
            kept = kept[key]
        kept[keys[-1]] = value

    return change


EDITS = {
    "loops": drop("loops"),
    "optimizer_states": drop("optimizer_states"),
    "lr_schedulers": put({}, "lr_schedulers"),
    "callbacks": put([], "callbacks"),
    "epoch": put("1", "epoch"),
    "pytorch-lightning_version": drop("pytorch-lightning_version"),
    "dcnlab.batches is -1": put(-1, "dcnlab", "batches"),
    "dcnlab.batches of the checkpoint is 99": put(99, "dcnlab", "batches"),
    "global_step of the checkpoint is 5": put(5, "global_step"),
    "does not say what made it": drop("dcnlab", "pass"),
    "param_groups.0.lr": put("fast", "optimizer_states", 0, "param_groups", 0, "lr"),
    "param_groups.0.momentum": drop("optimizer_states", 0, "param_groups", 0, "momentum"),
    "state.0.momentum_buffer": put(torch.zeros(2, 2), "optimizer_states", 0, "state", 0, "momentum_buffer"),
    "optimizer_states.0.state.0.momentum_buffer is not finite": put(
        torch.full((64, 3, 7, 7), torch.inf), "optimizer_states", 0, "state", 0, "momentum_buffer"
    ),
    "lr_schedulers.0.last_epoch": put("x", "lr_schedulers", 0, "last_epoch"),
    "loops.fit_loop.epoch_loop.batch_progress": drop("loops", "fit_loop", "epoch_loop.batch_progress"),
    "loops.fit_loop.epoch_progress": put(3, "loops", "fit_loop", "epoch_progress"),
    "expected torch.Tensor": put({"n_averaged": "x"}, "averaging_state"),
    "fc.bias": drop("current_model_state", "model.fc.bias"),
    "Missing key(s) in state_dict": drop("state_dict", "model.fc.bias"),
}


@pytest.mark.parametrize("says", EDITS)
def test_an_edited_checkpoint_is_refused_and_stays(run, says):
    """Each kind of edit gives one line, and the bytes of the checkpoint do not change."""
    path = RunFolder(run).checkpoint
    edit(path, EDITS[says])
    content = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"\A[^\n]*{re.escape(says)}[^\n]*\Z"):
        resume(run)
    assert path.read_bytes() == content


def spoil(name, key="state_dict"):
    def change(kept):
        kept[key][name] = kept[key][name] * float("nan")

    return change


def test_no_command_uses_nonfinite_checkpoint_weights(run, tiny):
    """evaluate, export, resume, restore and fit refuse in one line that names the tensor."""
    path = RunFolder(run).checkpoint
    edit(path, spoil("model.layer1.0.conv1.weight"))
    for door in (
        lambda: evaluate(run, []),
        lambda: export.export(run, "safetensors"),
        lambda: resume(run),
        lambda: restore(run, []),
        lambda: fit(load_experiment(tiny, BASE)),
    ):
        with pytest.raises(ConfigError, match=r"last\.ckpt: layer1\.0\.conv1\.weight is not finite; [^\n]*\Z"):
            door()
    assert step(path) == STEPS


def test_nonfinite_weights_before_averaging_stop_resume(run):
    """With optim.ema the raw weights are checked too, not only the averaged ones."""
    edit(RunFolder(run).checkpoint, spoil("model.conv1.weight", "current_model_state"))
    with pytest.raises(ConfigError, match=r"before averaging, conv1\.weight is not finite"):
        resume(run)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-true"])
def test_overflowing_logits_give_no_score_and_name_the_layer(run, precision):
    """In each precision, a test batch of infinite logits fails with the name of the last layer."""

    def grow(kept):
        weight = kept["state_dict"]["model.fc.weight"]
        weight.fill_(1e38 if precision != "16-true" else 6e4)

    assert evaluate(run, [f"trainer.precision={precision}"])
    edit(RunFolder(run).checkpoint, grow)
    with pytest.raises(ConfigError, match=rf"^test batch 0 has no scores: in trainer\.precision={precision} the output "
                       r"of fc is not finite; "):  # fmt: skip
        evaluate(run, [f"trainer.precision={precision}"])


def test_a_norm_that_overflows_in_testing_is_named(run):
    """The first layer with a non-finite output is named, not a later one that only receives it."""

    def grow(kept):
        kept["state_dict"]["model.bn1.weight"].fill_(6e4)

    edit(RunFolder(run).checkpoint, grow)
    with pytest.raises(ConfigError, match=r"^test batch 0 has no scores: [^\n]* the output of bn1 is not finite; "):
        evaluate(run, ["trainer.precision=16-true"])


def folders(tmp_path, count):
    """An image folder of two classes and `count` images each."""
    for name in "ab":
        folder = tmp_path / "data" / "train" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (10 * number, 0, 0)).save(folder / f"{number}.png")
    return str(tmp_path / "data")


FOLDER = ("id=two", "logger.wandb=false", "data.name=imagefolder", "data.test=train", "data.val=train",
          "data.image_size=32", "data.batch_size=2")  # fmt: skip


def warnings_in(caplog):
    """The texts of the warnings that a run logged."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("steps", "batches"), [(4, 0), (3, 3)])
def test_a_changed_image_list_is_warned_or_refused(tiny, tmp_path, caplog, steps, batches):
    """At an epoch's end a new image count is a warning; within an epoch resume is refused."""
    root = folders(tmp_path, 4)
    folder = fit(load_experiment(tiny, [*FOLDER, f"data.root={root}", f"trainer.max_steps={steps}"]))
    assert torch.load(RunFolder(folder).checkpoint, weights_only=True)["dcnlab"]["batches"] == batches
    shutil.copytree(folder, "copy/tiny/two")
    longer = ["trainer.max_steps=6"]
    with caplog.at_level("WARNING", "dcnlab"):
        shutil.move(root, tmp_path / "moved")  # which changes nothing
        resume(Path("copy/tiny/two"), [*longer, f"data.root={tmp_path / 'moved'}"])
        assert not warnings_in(caplog)
        folders(tmp_path, 5)
        if batches:
            says = r"^data\.train has 10 images, and .* was trained on 8, into an epoch, .*; put them"
            with pytest.raises(ConfigError, match=says):
                resume(folder, longer)
            assert step(RunFolder(folder).checkpoint) == steps
        else:
            resume(folder, longer)
            [line] = warnings_in(caplog)
            assert re.fullmatch(
                r"data\.train has 10 images, and .* was trained on 8; training continues with them", line
            )


def test_an_image_list_of_equal_length_is_compared_too(tiny, tmp_path, caplog):
    """One image renamed: a warning says that the data list other images."""
    root = folders(tmp_path, 4)
    folder = fit(load_experiment(tiny, [*FOLDER, f"data.root={root}", "trainer.max_steps=3"]))
    (Path(root) / "train/a/0.png").rename(Path(root) / "train/a/9.png")
    with caplog.at_level("WARNING", "dcnlab"):
        resume(folder, ["trainer.max_steps=4"])
    [line] = warnings_in(caplog)
    assert line.startswith("data.train lists other images than ")
