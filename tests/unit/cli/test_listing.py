"""`dcnlab list`: every name is listed once, one line each; on a terminal none is wider than it."""

import pytest
from locations import ROOT

from dcnlab.cli import listing, main

RFCN = "detection; RoI pooling, plain or deformable; OHEM"


def printed(capsys, *words):
    main.app(["list", *words], standalone_mode=False)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("kind", ["experiments", "sweeps"])
def test_every_packaged_file_is_listed_once(capsys, kind):
    """The names are those of the files that git holds, without bases."""
    files = [path for path in (ROOT / kind).rglob("*.yaml") if not path.name.startswith("base")]
    expected = sorted(str(path.relative_to(ROOT / kind).with_suffix("")) for path in files)
    assert [line.split()[0] for line in printed(capsys, kind)] == expected


def test_an_experiment_stands_next_to_its_first_comment(capsys):
    """The text of a line is the first sentence of the file."""
    lines = printed(capsys, "experiments")
    assert "detection/rfcn_voc            R-FCN, ResNet-101, VOC 07+12 -> 07 test" in lines


def test_models_and_data_sets_say_what_they_are_for(capsys):
    """Networks name their task and options; data sets their layout."""
    assert "rfcn                          detection; RoI pooling, plain or deformable; OHEM" in printed(
        capsys, "models"
    )
    assert any(line.startswith("camvid") and "SegNet" in line for line in printed(capsys, "data"))


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_no_line_is_wider_than_the_terminal_or_empty(capsys, monkeypatch, columns):
    """All four lists fit a terminal of 80 columns or more, each below its heading, and no text is missing."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys)
    assert 79 < max(map(len, lines)) <= max(80, columns)
    assert [line for line in lines if line.endswith(":")] == ["experiments:", "sweeps:", "models:", "data:"]
    assert all(len(line.split()) > 1 for line in lines if line and not line.endswith(":"))


def test_a_long_text_is_cut_at_a_word():
    """A text that does not fit ends in three dots after a whole word."""
    (line,) = listing.lines({"name": "word " * 40}, 80)
    assert len(line) <= 80
    assert line.endswith("word ...")


def test_a_pipe_gets_the_whole_texts(capsys):
    """Without a terminal nothing is cut, so that grep finds every word."""
    lines = printed(capsys, "experiments")
    assert not [line for line in lines if line.endswith("...")]
    assert any(line.startswith("detection/rfcn_cards ") and "playing cards" in line for line in lines)
