"""tools/evidence_check.py: kept runs that the code repeats, and such that it does not."""

import json
import subprocess
import sys

import evidence_check
import pytest
from command_line import dcnlab, environment

from dcnlab.ablations.tables import run_record

TINY = ["trainer.max_steps=3", "trainer.threads=1", "data.batch_size=4", "test.pictures=0"]
TINY += ["data.train_length=64", "data.test_length=64", "data.val=null"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A kept run of the quickstart that took three steps."""
    out = tmp_path_factory.mktemp("kept")
    done = dcnlab("fit", "classification/quickstart", *TINY, "model.deform_layers=1", f"out={out}", "id=one")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def now(kept, tmp_path_factory):
    """Takes a kept run and a folder, and gives the scores of the kept run's config, which is trained again once."""
    scores = evidence_check.scores_now(records(kept)[0], tmp_path_factory.mktemp("now"))
    return lambda record, folder: scores


def records(folder):
    return [record for record in run_record.records([folder])[0] if record.finished]


def test_a_run_that_the_code_repeats_is_current(kept, now, capsys):
    """The same config gives the same scores to the last bit."""
    assert evidence_check.check("quickstart", records(kept), now)
    assert "current" in capsys.readouterr().out


def test_a_run_of_other_code_is_not_current(kept, now, tmp_path, capsys):
    """A score that differs in its last bits is named, with both values."""
    (tmp_path / "quickstart").mkdir()
    (kept / "quickstart/one").rename(tmp_path / "quickstart/one")
    try:
        path = tmp_path / "quickstart/one/results.json"
        whole = path.read_text()
        results = json.loads(whole)
        results["metrics"]["top5"] += 1e-5
        path.write_text(json.dumps(results))
        assert not evidence_check.check("quickstart", records(tmp_path), now)
        printed = capsys.readouterr().out
        assert "top5 " in printed
        assert "top1 " not in printed
        assert "NOT current" in printed
    finally:
        path.write_text(whole)
        (tmp_path / "quickstart/one").rename(kept / "quickstart/one")


def test_runs_from_uncommitted_files_are_named(monkeypatch, tmp_path):
    """A commit with -dirty, and no commit at all, are both named; a commit is not."""
    monkeypatch.setattr(evidence_check, "KEPT", tmp_path)
    for name, git in (("a", "0" * 40), ("b", "0" * 40 + "-dirty"), ("c", None)):
        run = tmp_path / "x" / name
        run.mkdir(parents=True)
        (run / "results.json").write_text(json.dumps({"environment": {"git": git}}))

    class Run:
        def __init__(self, folder):
            self.folder, self.results = folder, json.loads((folder / "results.json").read_text())

    assert evidence_check.without_commit([Run(tmp_path / "x" / name) for name in "abc"]) == ["x/b", "x/c"]


def test_all_kept_runs_are_of_committed_files():
    """Nothing under evidence/ was trained from files that no commit holds."""
    assert evidence_check.without_commit(records(evidence_check.KEPT)) == []


@pytest.mark.slow
def test_the_quickstarts_kept_figures_are_those_of_today():
    """The shortest trial of the quickstart's evidence, trained again as `make evidence-check` does."""
    command = [sys.executable, "tools/evidence_check.py", "quickstart"]
    done = subprocess.run(command, cwd=evidence_check.HERE, env=environment(), capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": current" in done.stdout
