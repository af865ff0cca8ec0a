"""The pages: their Python runs, their commands are accepted, their numbers are the kept ones."""

import functools
import re
import shlex

import config_keys
import pytest
import typer
from locations import ROOT
from page_commands import PAGES, commands_of, files_of, python_of

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.tables import paper
from dcnlab.cli import main
from dcnlab.config import overrides
from dcnlab.config.keys import type_of
from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError

COMMAND = typer.main.get_command(main.app)
NOT_TRIED = {
    **dict.fromkeys(("pip", "wandb", "docker", "apptainer", "conda"), "needs the network"),
    "tensorboard": "a program of others",
    "eval": "sets up a shell; its `dcnlab completion` is tested in tests/unit/cli",
}
"""Programs in the pages that no test starts or parses, and why."""


def dcnlab_words(words):
    """The words after `dcnlab`, up to a pipe, where a command calls it, under a launcher too."""
    words = words[: words.index("|")] if "|" in words else words
    return words[words.index("dcnlab") + 1 :] if "dcnlab" in words else None


def parsed(words):
    """The command's name and parameters, as our command line reads them; raises where it would refuse them."""
    command, names = COMMAND, []
    while getattr(command, "commands", None):
        names.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(names), command.make_context(names[-1], list(words)).params


@functools.cache
def load(experiment, *words):
    """Read an experiment as `fit` does; its data set may lie anywhere."""
    load_experiment(experiment, words, default_root="somewhere")


read_sweep = functools.cache(sweep_file.read)


def check(words):
    """Raise where an experiment, sweep or key that a command names does not exist."""
    name, parameters = parsed(words)
    if name == "fit" and not parameters["experiment"].startswith("runs/"):
        load(parameters["experiment"], *(parameters["args"] or []))
    elif name == "config" and parameters["experiment"] is not None:
        load(parameters["experiment"])
    elif name == "complexity":
        for word in parameters["words"] or []:
            load(word)
    elif name == "sweep":
        read_sweep(parameters["sweep"])
    for word in parameters.get("overrides") or []:
        assert type_of(overrides.parse_override(word)[0]) is not None, f"no such key {word}"


WITH_PYTHON = [page for page in PAGES if python_of(page) and page.name != "extending.md"]  # has a test to itself


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page are one program."""
    monkeypatch.chdir(tmp_path)
    space = {}
    for code in python_of(page):
        exec(compile(code, page.name, "exec"), space)


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_commands_of_a_page_are_accepted(page, tmp_path, monkeypatch):
    """Options, experiments, sweeps and keys exist; make's targets and scripts too."""
    monkeypatch.chdir(tmp_path)
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text)  # the page's own experiments
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands_of(page):
        ours = dcnlab_words(words)
        if words[0] in NOT_TRIED:
            continue
        if ours is not None:
            check(ours)
        elif words[0] == "make":
            assert words[1] in targets, words
        else:
            assert words[0] == "python", words
            assert (ROOT / words[1]).is_file(), words


def test_a_command_with_a_wrong_option_or_key_is_found(tmp_path):
    """The check of the pages is not blind."""
    page = tmp_path / "page.md"
    page.write_text("    dcnlab sweep quickstart --job 2\n\nor `dcnlab fit detection/rfcn_voc model.deform=3`\n")
    wrong_option, wrong_key = commands_of(page)
    with pytest.raises(Exception, match="No such option: --job"):
        check(dcnlab_words(wrong_option))
    with pytest.raises(ConfigError, match=r"no such key model\.deform"):
        check(dcnlab_words(wrong_key))


def test_a_mistake_in_the_pages_gives_the_line_below_it():
    """The shown error is the one that the command line prints."""
    shown = re.findall(r"^    \$ dcnlab fit (.+)\n    dcnlab: (.+)$", (ROOT / "docs/experiments.md").read_text(), re.M)
    assert shown
    for command, line in shown:
        experiment, *args = shlex.split(command)
        with pytest.raises(ConfigError) as caught:
            load_experiment(experiment, args)
        assert str(caught.value) == line


def rows_of(text, columns):
    """The cells of Markdown tables with this number of columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if len(row) == columns]


def published(sweep):
    """The paper's plain and deformable scores for a sweep, as README writes them."""
    table, _, system = sweep.partition("_")
    if table == "table5":
        model, _, backbone = system.removesuffix("_coco").partition("_aligned")
        backbone = "aligned_inception_resnet" if backbone else "resnet101"
        rows = [row for row in paper.read(table)["rows"] if (row["model"], row["backbone"]) == (model, backbone)]
        return [f"{rows[0][kind][0]}" for kind in ("plain", "deformable")]
    system = system if system.startswith("deeplab") else system.removesuffix("_voc")
    having = [row[system] for row in paper.read(table)["rows"] if system in row]
    rows = (
        having if table == "table3" else [row[system] for row in paper.read(table)["rows"] if row["layers"] in (0, 3)]
    )
    return [" / ".join(f"{score}" for score in row.values()) for row in (rows[0], rows[-1])]


def test_papers_scores_in_readme_are_those_of_the_transcription():
    """Each row of the table holds the scores of the sweep that it names."""
    rows = [row for row in rows_of((ROOT / "README.md").read_text(), 6) if "dcnlab sweep" in row[-1]]
    assert len(rows) == 10
    for row in rows:
        assert row[2:4] == published(row[-1].split()[2]), row


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_our_scores_are_those_of_the_kept_runs(page):
    """Each mean and spread stands in a table that is printed from the kept runs."""
    printed = "".join((ROOT / name).read_text() for name in ("docs/fidelity.md", "docs/measured.md"))
    kept = "".join(re.findall(r"<!-- \$ dcnlab table .*?<!-- end -->", printed, re.DOTALL))
    shown = re.findall(r"\b(\d\d\.\d\d ± \d\.\d\d)\b", (ROOT / page).read_text())
    assert len(shown) >= 4
    assert [score for score in shown if score not in kept] == []


def test_the_page_of_config_keys_is_that_of_the_dataclasses():
    """Every key's text, type and default in docs/config.md are those of schema.py."""
    assert config_keys.PAGE.read_text() == config_keys.page(), "python tools/config_keys.py"


def test_a_field_of_the_config_has_a_text_on_the_page():
    """A new key cannot be left out of the page."""
    text = config_keys.PAGE.read_text()
    for key in ("model.rpn.border", "trainer.effective_batch", "data.digits", "logger.every"):
        assert f"`{key}`\n:   " in text


def test_readme_fits_on_few_screens():
    """README stays a page that a person reads: about 150 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 165
