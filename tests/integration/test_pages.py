"""docs/: tables are those of the kept runs."""

import functools
import re
import shlex
from pathlib import Path

import kept_runs
import pytest
import typer
from locations import ROOT

import evidence
from dcnlab.ablations.tables import build_table, run_record
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.comparison import Options
from dcnlab.cli.main import app
from dcnlab.config import identity
from dcnlab.config.load import load_experiment
from dcnlab.metrics import image_records
from dcnlab.training import expected as comparison

PAGES = (ROOT / "docs" / "measured.md", ROOT / "docs" / "fidelity.md")


@functools.cache
def records(roots):
    """The kept runs, read once for all tables."""
    return READ(list(roots))


READ = run_record.records


def shown(page):
    """What stands below each `dcnlab table` command of a page."""
    blocks = {found["command"]: found[0] for found in evidence.BLOCK.finditer(page.read_text())}
    return {command: text.partition("-->\n")[2].removesuffix("<!-- end -->") for command, text in blocks.items()}


def printed(words):
    """What `dcnlab table ...` prints, from the runs that were read before."""
    with typer.main.get_command(app).commands["table"].make_context("table", words) as context:
        options = context.params
    shown = Options(options["block"], options["power"])
    table = build_table.assemble(options["name"], options["runs"], options["more"] or [], options=shown)
    table.orientation = table.orientation and not options["no_paper"]
    return tables.render(table, options["form"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_in_pages_equal_the_kept_runs(page, monkeypatch):
    """Each block of `dcnlab table` and tools/kept_runs.py equals the command's output today."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_record, "records", lambda roots: records(tuple(Path(root) for root in roots)))
    found = {command: text.strip() for command, text in shown(page).items()}
    checked = 0
    for command, text in found.items():
        words = shlex.split(command)
        if evidence.lacks_runs(command):
            assert text == evidence.NOT_KEPT, command
        elif words[:2] == ["dcnlab", "table"]:
            assert text == printed(words[2:]).strip(), command
        elif words[1] == "tools/kept_runs.py":
            finished = [record for record in records((Path("evidence"),))[0] if record.finished]
            assert text == kept_runs.TABLES[words[2]](finished), command
        else:
            continue
        checked += 1
    assert checked


def test_kept_runs_meet_what_their_experiments_state(monkeypatch):
    """A kept run of an experiment's own settings is within the tolerance of its `test.expected`."""
    monkeypatch.chdir(ROOT)
    kept, _ = records((Path("evidence"),))
    met = {}
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        if "expected:" in path.read_text():
            config = load_experiment(str(path))
            settings = identity.changed(identity.settings(config))
            same = [run for run in kept if identity.changed(run.settings) == settings]
            met[path.stem, config.task] = [
                comparison.all_met(comparison.compare(run.results["metrics"], config.test.expected)) for run in same
            ]
    assert len(met) >= 4
    assert all(outcomes and all(outcomes) for outcomes in met.values()), met


def test_kept_runs_contain_no_absolute_paths():
    """Paths of the machine that made them must not be published."""
    whole = [path for path in (ROOT / "evidence").rglob("*") if path.is_file()]
    files = [path for path in whole if path.suffix != ".npz"]
    assert files
    names = {name for path in whole if path not in files for name in image_records.read(path).images}
    assert [name for name in names if name.startswith(("/", ".."))] == []
    assert [path for path in files if re.search(r'(^|[\s"\'])/(?!$)\w', path.read_text(), re.MULTILINE)] == []
