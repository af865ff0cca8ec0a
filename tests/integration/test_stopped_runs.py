"""A run that a signal stops is saved after its step, and the command that it prints resumes at that very step."""

import os
import shlex
import signal
from pathlib import Path

import pytest
import torch
from command_line import complaints, dcnlab, python, start
from processes import GUARD, await_, processes_of

from dcnlab.cli.main import main
from dcnlab.config import outside
from dcnlab.config.load import load_experiment
from dcnlab.training import interruption, outcome
from dcnlab.training.callbacks import cost
from dcnlab.training.outcome import STOPPING
from dcnlab.training.run import fit, resume
from dcnlab.training.run_folder import RunFolder

FOUR = ("logger.wandb=false", "data.classes=[1,7]", "data.batch_size=8", "trainer.max_steps=8", "optim.ema=0.9")
"""Two epochs of four steps, each with a validation of several batches; `max_steps` ends the second one."""


class Signalling(cost.Cost):
    """Sends itself a signal after step 2 or 6, in the second batch of a validation, or in the test."""

    state_key = "Cost"
    when, numbers = "", (signal.SIGTERM,)

    def _signal(self, moment):
        if moment == self.when:
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def on_train_batch_end(self, trainer, *arguments):
        super().on_train_batch_end(trainer, *arguments)
        self._signal(f"step {trainer.global_step}")

    def on_validation_batch_start(self, trainer, module, batch, number, *more):
        self._signal(f"batch {number} of the validation after step {trainer.global_step}")

    def on_test_batch_start(self, *arguments):
        self._signal("the test")


def state(folder):
    """The content of a run's checkpoint."""
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def assert_same_run(whole, part):
    """The same weights to the bit, averaged and not, the same logged rows and the same scores."""
    for key in ("state_dict", "current_model_state"):
        torch.testing.assert_close(state(part)[key], state(whole)[key], rtol=0, atol=0)
    assert (part / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    results = [RunFolder(folder).read_results() for folder in (whole, part)]
    assert [result["status"] for result in results] == ["finished", "finished"]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that no signal stopped."""
    from small_experiments import TINY

    home = tmp_path_factory.mktemp("whole")
    (home / "tiny.yaml").write_text(TINY)
    return fit(load_experiment(str(home / "tiny.yaml"), [f"out={home}", "id=whole", *FOUR]))


def stop(tiny, monkeypatch, when, *numbers):
    """Run `part`, stopped by signals at some moment; what it raises."""
    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.parts.Cost", Signalling)
        patch.setattr(Signalling, "when", when)
        patch.setattr(Signalling, "numbers", numbers or (signal.SIGTERM,))
        with pytest.raises(outcome.Interrupted) as caught:
            fit(load_experiment(tiny, ["id=part", *FOUR]))
    return caught.value


@pytest.mark.parametrize(
    ("when", "number", "step"),
    [
        ("step 2", signal.SIGINT, 2),
        ("step 4", signal.SIGUSR1, 4),
        ("batch 1 of the validation after step 4", signal.SIGTERM, 4),
        ("batch 1 of the validation after step 8", signal.SIGINT, 8),
        ("the test", signal.SIGTERM, 8),
    ],
)
def test_a_stopped_run_continues_at_its_step(tiny, whole, monkeypatch, when, number, step):
    """In a step, in a validation and in the test: the rest of the run makes it the one that nobody stopped."""
    handlers = [signal.getsignal(other) for other in STOPPING]
    stopped = stop(tiny, monkeypatch, when, number)
    assert [signal.getsignal(other) for other in STOPPING] == handlers
    part = Path("runs/tiny/part")
    assert state(part)["global_step"] == step
    assert RunFolder(part).read_results()["status"] == "interrupted"
    assert stopped.advice(["fit"]) == "interrupted; resume with: dcnlab resume runs/tiny/part"
    resume(part)
    assert_same_run(whole, part)


def test_a_second_signal_ends_a_run_at_once(tiny, monkeypatch):
    """The second signal, and not its echo within a second, ends the run without a checkpoint."""
    stop(tiny, monkeypatch, "step 2", signal.SIGINT, signal.SIGINT)
    assert state(Path("runs/tiny/part"))["global_step"] == 2
    monkeypatch.setattr(interruption, "_SAME_SECONDS", 0.0)
    stopped = stop(tiny, monkeypatch, "step 3", signal.SIGINT, signal.SIGINT)
    assert state(Path("runs/tiny/part"))["global_step"] == 2
    assert stopped.number == signal.SIGINT


def test_the_resume_command_allows_outside_modules(tiny):
    """A run whose network is from outside dcnlab is resumed with --allow."""
    config = load_experiment(tiny)
    assert outside.modules_of(config) == []
    config.model.backbone.name, config.data.name = "elsewhere.nets:Backbone", "elsewhere.data:Images"
    config.model.name = outside.OutsideName("elsewhere.nets:Net")
    assert sorted(outside.modules_of(config)) == ["elsewhere.data", "elsewhere.nets"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_prints_a_command_that_resumes(tiny, devices):
    """Ctrl-C reaches all ranks and loaders; the printed command continues at the saved step."""
    words = ["id=part", *FOUR, f"trainer.devices={devices}", "trainer.max_steps=100000", "data.workers=1"]
    process = start("fit", tiny, *words, new_session=True)
    await_(lambda: Path("runs/tiny/part/checkpoints/last.ckpt").exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=GUARD)
    said, advice = complaints(err)
    assert said == "Ctrl-C: the run saves after this step and ends; a second one ends it at once"
    assert (process.returncode, out, advice) == (130, "", "interrupted; resume with: dcnlab resume runs/tiny/part")
    await_(lambda: not processes_of(Path.cwd()))
    step = state(Path("runs/tiny/part"))["global_step"]
    words = shlex.split(advice.partition("dcnlab ")[2])
    done = dcnlab(*words, f"trainer.max_steps={step + 2}")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/part\n"), done.stderr
    trained = [line.partition(",")[0] for line in done.stderr.splitlines() if line.startswith("step ")]
    assert trained == [f"step {step + 1} of {step + 2}", f"step {step + 2} of {step + 2}"]


IN_VALIDATION = """
import os, signal, sys
from dcnlab.cli import main as cli
from dcnlab.training import parts
from dcnlab.training.callbacks import cost
class Cost(cost.Cost):
    def on_validation_batch_start(self, trainer, module, batch, number, *more):
        if (trainer.global_rank, trainer.global_step, number) == (1, 2, 1):
            os.kill(os.getpid(), signal.SIGTERM)
parts.Cost = Cost
cli.main()
"""


@pytest.mark.slow
def test_two_ranks_save_together_within_a_validation(tiny):
    """A signal to rank 1 alone stops both; the resumed run validates first, and equals the one nobody stopped."""
    words = [*FOUR, "data.batch_size=16", "trainer.max_steps=4", "trainer.devices=2", "data.train_length=64"]
    Path("stop.py").write_text(IN_VALIDATION)
    stopped = python("stop.py", "fit", tiny, "id=part", *words)
    assert (stopped.returncode, state(Path("runs/tiny/part"))["global_step"]) == (130, 2), stopped.stderr
    assert complaints(stopped.stderr) == ["interrupted; resume with: dcnlab resume runs/tiny/part"]
    for done in (dcnlab("fit", tiny, "id=whole", *words), dcnlab("resume", "runs/tiny/part")):
        assert done.returncode == 0, done.stderr
    assert_same_run(Path("runs/tiny/whole"), Path("runs/tiny/part"))


def test_an_early_ctrl_c_names_the_command_again(tiny, monkeypatch, capsys):
    """Ctrl-C while the config is read ends with status 130, and with the words of the command line."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dcnlab.config.load.load_experiment", interrupted)
    monkeypatch.setattr("sys.argv", ["dcnlab", "fit", tiny, "data.classes=[1, 7]"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    said = f"interrupted, nothing is saved; begin again with: dcnlab fit {tiny} 'data.classes=[1, 7]'\n"
    assert capsys.readouterr() == ("", said)
