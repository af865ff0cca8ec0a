"""README.md and docs/: their tables are those of evidence/, their links lead somewhere."""

import functools
import re
import shlex
from pathlib import Path

import pytest
from locations import ROOT

import evidence
from dcnlab.ablations.tables import run_record
from dcnlab.ablations.tables import table as tables

PAGES = (ROOT / "README.md", ROOT / "docs" / "fidelity.md")


@functools.cache
def records(roots):
    """The kept runs, read once for all tables."""
    return READ(list(roots))


READ = run_record.records


def shown(page):
    """What stands below each `dcnlab table` command of a page."""
    blocks = {found["command"]: found[0] for found in evidence.BLOCK.finditer(page.read_text())}
    return {command: text.partition("-->\n")[2].removesuffix("<!-- end -->") for command, text in blocks.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_the_pages_are_those_that_the_kept_runs_give(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_record, "records", lambda roots: records(tuple(roots)))
    found = {command: text for command, text in shown(page).items() if command.startswith("dcnlab table ")}
    assert found
    for command, text in found.items():
        words = shlex.split(command)[2:]
        at = words.index("--runs")
        table = tables.assemble(words[0], [Path(words[at + 1])], words[1:at])
        assert text.strip() == tables.render(table, "markdown").strip(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_the_pages_are_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_kept_runs_name_no_folder_of_the_machine_that_made_them():
    files = [path for path in (ROOT / "evidence").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if re.search(r'(^|[\s"\'])/(?!$)\w', path.read_text(), re.MULTILINE)] == []
