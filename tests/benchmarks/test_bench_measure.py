"""How the benchmarks share time and turns, and count memory; `make bench` gives every part its turn."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import bench
import growth
import measure
import memory
import numpy as np
import operators
import pytest
import record
import torch
from command_line import environment
from processes import GUARD, alive, await_

MIB = 2**20


def stated(work, repeats, device):
    """Seconds of a call of work that is itself a number of seconds."""
    return work


def test_slow_contenders_get_at_least_two_rounds():
    """Within the time limit the slowest works run twice, spread over the rounds."""
    quick, slow, slowest = measure.turns([0.5, 2.0, 9.0], 7, "cpu", limit=3 * 8.1, call=stated)
    assert (len(quick), len(slow), len(slowest)) == (7, 3, 2)
    assert set(slowest) == {3, 6}, "the turns of a slow one are spread over the rounds"


def test_a_ratio_uses_the_rounds_of_both_contenders():
    """A slow round that hit both contenders must not change their ratio."""
    quick, slow = {0: 1.0, 1: 1.0, 2: 1.0, 3: 4.0, 4: 1.0, 5: 1.0, 6: 1.0}, {3: 8.0, 6: 2.0}
    assert measure.ratio(slow, quick) == 2.0  # a slow spell in round 3 hit both


def test_without_a_limit_all_run_in_every_round():
    """The contenders alternate, so that a slow spell hits all of them."""
    seen = []

    def call(work, repeats, device):
        seen.append(work)
        return work

    assert [len(times) for times in measure.turns([3.0, 1.0], 3, "cpu", call=call)] == [3, 3]
    assert seen[-6:] == [3.0, 1.0] * 3


def test_rows_have_medians_rounds_and_ratios():
    """Column names begin with the contender's name; the ratio is of the rounds that both ran."""
    ratios = {"times": ("b", "a")}
    row = measure.timed(("a", "b"), [0.5, 2.0], 4, "cpu", limit=2 * 1.4, ratios=ratios, call=stated)
    assert row == {"a_ms": 500.0, "b_ms": 2000.0, "a_turns": 2, "b_turns": 2, "times": 4.0}


def test_an_empty_measurement_keeps_the_old_file(tmp_path):
    """Without rows nothing is written, and the program exits with a message."""
    path = tmp_path / "part_cpu.json"
    record.write(path, "cpu", {}, [{"a": 1}])
    before = path.read_text()
    with pytest.raises(SystemExit, match=f"nothing was measured; {path} is as before"):
        record.write(path, "cpu", {}, [])
    assert path.read_text() == before


@dataclass
class Clock:
    now: float = 100.0
    taken: list = field(default_factory=list)

    def monotonic(self):
        return self.now


def test_unused_time_goes_to_the_later_parts(monkeypatch):
    """Each part gets time by its weight; what one leaves unused is divided among those that follow."""
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    budget = measure.Budget(minutes=1)
    for name, seconds in budget.share({"a": 1, "b": 2, "c": 3, "d": 4}):
        clock.taken.append((name, seconds))
        clock.now += {"a": 6, "b": 0, "c": 60}[name]
    assert clock.taken == [("a", pytest.approx(6)), ("b", pytest.approx(12)), ("c", pytest.approx(54 * 3 / 7))]
    assert budget.left_out == ["d"]


def test_an_unlimited_budget_gives_every_part_infinity():
    """Without --minutes no part has a time limit."""
    budget = measure.Budget(None)
    assert dict(budget.share({"a": 1.0, "b": 2.0})) == {"a": math.inf, "b": math.inf}


def held(mebibytes, small=False):
    """Holds so much for a moment."""
    return lambda: np.ones((1 if small else mebibytes) * MIB, np.uint8).sum()


@pytest.mark.slow
def test_peak_memory_is_that_of_the_call_alone():
    """Memory held before the call does not count; 32 and 96 MiB are measured to 3 MiB."""
    for mebibytes in (32, 96):
        assert memory.peak_bytes(held, (mebibytes,), "cpu") / MIB == pytest.approx(mebibytes, abs=3)


def test_a_measured_layer_has_the_columns_of_its_table():
    """Times of each contender and their ratios are one row, computed from the same medians."""
    row = operators.measured(operators.Shape(4, 6, 5, batch=2), torch.float32, "cpu", True, 1, memory_of=())
    sizes = [row[name] for name in ("pass", "channels", "height", "width", "batch", "dilation")]
    assert sizes == ["both", 4, 6, 5, 2, 1]
    assert row["times_faster_than_torchvision"] == pytest.approx(row["torchvision_ms"] / row["ours_ms"])
    assert row["times_plain"] == pytest.approx(row["ours_channels_last_ms"] / row["plain_ms"])
    assert {row[f"{kind}_turns"] for kind in operators.KINDS} == {1}


def test_the_growth_plot_works_with_and_without_memory():
    """Rows of times alone and rows with memory each give a PNG."""
    points = [(axis, at) for axis in ("batch", "RoIs") for at in (1, 4)]
    rows = [{"axis": axis, "at": at, "ours_ms": 2.0 * at, "plain_ms": 1.0 * at} for axis, at in points]
    assert growth.draw(rows).startswith(b"\x89PNG")
    assert growth.draw([row | {"ours_mib": 3.0} for row in rows]).startswith(b"\x89PNG")


SCRIPT = """
import json, os, sys, pathlib
name = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
assert name.stem != "second_cpu", "broken"
name.parent.mkdir(parents=True, exist_ok=True)
name.write_text(json.dumps([float(sys.argv[sys.argv.index("--minutes") + 1]), os.environ["OMP_NUM_THREADS"],
                            os.environ["CUDA_VISIBLE_DEVICES"]]))
"""


def test_a_failing_part_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    """The part that fails is named, and the parts after it still get their time and write results."""
    here = tmp_path / "benchmarks"
    here.mkdir()
    (here / "part.py").write_text(SCRIPT)
    monkeypatch.setattr(bench, "HERE", here)
    weights = {"first": 1, "second": 1, "third": 2}
    monkeypatch.setattr(bench, "PARTS", {name: (weight, ["part.py"]) for name, weight in weights.items()})
    assert bench.measure(list(weights), 400 + bench.KEPT, 2, None) == ["second"]
    assert "AssertionError: broken" in capfd.readouterr().err
    found = {path.stem: json.loads(path.read_text()) for path in (here / "results").glob("*.json")}
    assert found == {
        "first_cpu": [pytest.approx(100.0, abs=10), "2", ""],
        "third_cpu": [pytest.approx(400.0, abs=10), "2", ""],
    }


SLEEPER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("started.part").write_text(f"{os.getpid()} {child.pid}")
os.rename("started.part", "started")
time.sleep(600)
"""
CHANGED = """
import bench, pathlib
bench.HERE = pathlib.Path("here").resolve()
bench.PARTS = {"startup": (1, ["part.py"])}
bench.main()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_prints_one_line(how, tmp_path):
    """After SIGINT or SIGTERM the benchmark exits with 130 and leaves no process and no temporary file."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/part.py").write_text(SLEEPER)
    started = tmp_path / "started"
    command = [sys.executable, "-c", CHANGED]
    paths = os.pathsep.join((str(bench.HERE), str(bench.HERE.parent)))
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(PYTHONPATH=paths, TMPDIR=str(tmp_path)), **pipes)
    await_(lambda: started.exists() or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(how)
    _, said = process.communicate(timeout=GUARD)
    assert (process.returncode, said.strip().count("\n")) == (130, 0)
    assert said.strip().startswith("interrupted: ")
    await_(lambda: not any(map(alive, started.read_text().split())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "started"]


def test_every_part_is_a_script_that_takes_its_options(monkeypatch, capsys):
    """The help of each script that `make bench` runs names --minutes and --out."""
    assert set(bench.PARTS) >= {"operators", "networks", "growth", "feeding", "scoring", "startup"}
    for script in {script for _, (script, *_) in bench.PARTS.values()}:
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit, match=r"\A0\Z"):
            importlib.import_module(script.removesuffix(".py")).main()
        words = capsys.readouterr().out.split()
        assert {"--minutes", "--out"} <= set(words), script
