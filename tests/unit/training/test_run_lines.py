"""What a run says at its start, while it trains and at its end, and the learning rates in its metrics.csv."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcnlab.ablations.sweeps.standing import SweepStanding
from dcnlab.config.load import load_experiment
from dcnlab.nn import DeformConv2d, DeformRoIPool
from dcnlab.nn.active_conv2d import ActiveConv2d
from dcnlab.tasks.optim import rates_of
from dcnlab.training.loggers.console import ProgressBar
from dcnlab.training.loggers.metrics_csv import read
from dcnlab.training.run import fit
from dcnlab.training.run_lines import Standing, duration, end_lines, last_standing, start_lines

HALF = Standing(750, 1500, 12, 24, 0.53214, 0.01, ("val/ap50", 71.204), 3725.4)


def test_a_line_of_progress_fits_the_terminal():
    """Step, epoch, loss, score, rate and the whole time left stand in a line of 80 columns."""
    assert str(HALF) == "step 750 of 1500, epoch 12 of 24, loss 0.5321, val/ap50 71.20, lr 0.01, 1:02:05 left"
    assert str(Standing(1, None, 1, None, None, 1e-5, None, None)) == "step 1, epoch 1, lr 1e-05"
    assert [duration(seconds) for seconds in (0.4, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]


def test_the_last_line_of_progress_is_read_from_a_log():
    """A sweep reads step, steps and the rest of the last such line; other lines do not count."""
    log = ["run: runs/a/b", str(HALF), "warning: step 9 of nothing", "step 760 of 1500, epoch"[:9]]
    assert last_standing(log) == (750, 1500, str(HALF))
    assert last_standing(["run: runs/a/b"]) is None


@pytest.fixture
def run(tiny, caplog):
    """The lines of a run of four steps, the learning rate of which drops after the second."""
    with caplog.at_level("INFO", "dcnlab"):
        words = ["id=one", "trainer.max_steps=4", "optim.milestones=[2]", "optim.offset_lr_scale=0.1", "logger.every=2"]
        fit(load_experiment(tiny, [*words, "logger.wandb=false", "model.deform_layers=1"]))
    return [record.getMessage() for record in caplog.records if record.name == "dcnlab.run"]


def test_a_run_says_what_it_is_where_it_is_and_what_follows(run):
    """Five lines at the start, one each two steps, then the scores and the next commands."""
    count = sum(parameter.numel() for parameter in _network().parameters())
    assert run[:5] == [
        "data: digits; images: train 32, val 1,000, test 40",
        "classes: 10: 0, 1, 2, 3, 4, 5 and 4 more",
        f"network: resnet, resnet10_slim, 1 deformable layer; {count:,} parameters",
        "device: cpu, 1 thread",
        "run: runs/tiny/one",
    ]
    steps = [line.split(", ") for line in run[5:7]]
    assert [(words[0], words[1], words[-2]) for words in steps] == [
        ("step 2 of 4", "epoch 1 of 2", "lr 0.05"),
        ("step 4 of 4", "epoch 2 of 2", "lr 0.005"),
    ]
    assert "val/top1" not in run[5]
    assert steps[1][3].startswith("val/top1 ")
    assert steps[1][-1] == "0:00 left"
    assert run[7].startswith("test: top1 ")
    assert run[8:] == [
        "next: dcnlab evaluate runs/tiny/one",
        "      dcnlab visualize runs/tiny/one test:0",
        "      dcnlab report runs",
    ]


def _network():
    from dcnlab.models.build import build_network

    words = ["model.backbone.name=resnet10_slim", "model.deform_layers=1", "trainer.max_steps=1"]
    return build_network(load_experiment("classification/quickstart", words), 10)


def test_metrics_csv_holds_the_rates_of_each_logged_step(run):
    """The rate is the one that the step was made with, for the base group and the offsets'."""
    rows = [row for row in read(Path("runs/tiny/one/metrics.csv")) if row["train/loss"]]
    assert [(int(row["step"]), float(row["lr"])) for row in rows] == [(1, 0.05), (3, pytest.approx(0.005))]
    assert [float(row["lr/offset"]) for row in rows] == pytest.approx([0.005, 0.0005])


def test_many_groups_of_other_rates_are_not_logged():
    """Up to four more rates have a column; with five there is only the base rate."""
    for more in (4, 5):
        groups = [{"name": f"{n} weights", "params": [nn.Parameter(torch.ones(1))], "lr": n + 1.0} for n in range(6)]
        rates = rates_of(torch.optim.SGD(groups[: more + 1], lr=1.0))
        others = {f"lr/{n}": n + 1.0 for n in range(1, 5)} if more == 4 else {}
        assert {name: float(rate) for name, rate in rates.items()} == {"lr": 1.0, **others}


@pytest.mark.parametrize(
    ("network", "drawn"),
    [
        (nn.Linear(1, 1), None),
        (DeformConv2d(2, 2, 3), "      dcnlab visualize 'runs/a/b c' test:0"),
        (DeformRoIPool(2, 3), "      dcnlab visualize 'runs/a/b c' test:0 --kind rois"),
        (ActiveConv2d(2, 2, 3), None),
    ],
)
def test_only_what_can_be_drawn_is_offered_for_drawing(tiny, network, drawn):
    """`visualize` draws deformable layers or RoI bins; a run without a test has no scores."""
    lines = ["next: dcnlab evaluate 'runs/a/b c'", drawn, "      dcnlab report runs"]
    assert end_lines(load_experiment(tiny), network, {}, "runs/a/b c") == [line for line in lines if line is not None]


def test_a_folder_of_ones_own_is_described_once(tiny):
    """The line of data.name=own has root, splits and classes already."""
    lines = start_lines(load_experiment(tiny), SimpleNamespace(own=object()), nn.Linear(2, 2), "cpu", 2, "runs/a/b")
    assert lines == ["network: resnet, resnet10_slim; 6 parameters", "device: cpu, 2 ranks", "run: runs/a/b"]


def test_a_sweep_knows_its_best_trial_and_the_time_left(tmp_path):
    """Two of four trials ended after 10 s each, two at once: the half-done third and the fourth take 8 s."""
    trials = [SimpleNamespace(id=str(n), folder=tmp_path / str(n)) for n in range(4)]
    standing = SweepStanding(4)
    for trial in trials[:2]:
        standing.begin(trial)
    for trial, score in zip(trials[:2], (70.0, 60.0), strict=True):
        standing.end(trial, 10.0)
        standing.take(trial, {"top1": score, "iou/a": 99.0})
    standing.begin(trials[2])
    trials[2].folder.mkdir()
    (trials[2].folder / "log.txt").write_text(f"{HALF}\n")
    standing.running["2"].read()
    assert standing.running["2"].measures == "loss 0.5321, 1:02:05 left"
    assert standing.seconds_left == pytest.approx(10 * 1.5 / 2)
    assert str(standing).startswith("about 0:08 left, best so far top1 70.00 (")


def test_the_bar_shows_the_whole_training_on_one_line(monkeypatch):
    """Epoch, step, loss, score and the time left fit into 80 columns of a terminal."""
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar()
    bar.start(1500, 0)
    bar.step(750)
    bar.show(HALF)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(bar._progress)
    bar.stop()
    [line] = console.export_text().splitlines()
    assert line.split() == ["epoch", "12/24", line.split()[2], "750/1500", "loss", "0.5321,", "val/ap50", "71.20,",
                            "1:02:05", "left"]  # fmt: skip
