"""docs/fidelity.md: each difference is held by a key, a constant or a test; no number in prose is typed by hand."""

import functools
import importlib
import re

import pytest
import yaml
from locations import ROOT

import evidence
from dcnlab.config.keys import type_of
from dcnlab.config.load import load_experiment
from dcnlab.config.overrides import parse_override
from dcnlab.io import yaml_file

PAGE = ROOT / "docs" / "fidelity.md"
PAGES = (PAGE, ROOT / "docs" / "measured.md")
HELD_BY = "held by"
"""The last column of a table that is written by hand."""
ALLOWED = {
    r"\btables? \d": "a table of the paper",
    r"\bsections? \d(\.\d)?": "a section of the paper",
    r"\bResNet-\d+": "a network's name",
    r"\b(ICCV|VOC|until|in|since) 20\d\d": "a year",
    r"\bAP\d\d\b": "a metric's name",
    r"\b[13]x[13]\b": "a kernel's size",
    r"\b95% intervals?": "the level of the tables' intervals",
}
"""What may hold a digit in prose, and why."""


def without_printed(text):
    """The text without the blocks that commands print."""
    return evidence.BLOCK.sub("", text)


def tables_of(text):
    """The tables outside printed blocks: header and rows, each a list of cells."""
    tables = re.findall(r"(?:^\|.*\n)+", without_printed(text) + "\n", re.MULTILINE)
    split = [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()] for t in tables]
    return [(lines[0], lines[2:]) for lines in split]


def prose_of(text):
    """What is left without blocks, tables with the column `HELD_BY`, code, headings and addresses of links."""
    text = without_printed(text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        if table.partition("\n")[0].strip("| ").endswith(HELD_BY):
            text = text.replace(table, "")
    text = re.sub(r"^```.*?^```|^    .*?$|`[^`]*`|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\]\([^)]*\)", "]", text)


def numbers_in_prose(text):
    """Lines with a digit that no pattern of `ALLOWED` explains."""
    text = prose_of(text)
    for pattern in ALLOWED:
        text = re.sub(pattern, "", text)
    return [line for line in text.splitlines() if re.search(r"\d", line)]


@functools.cache
def experiment(name):
    """An experiment of the project; its data may lie anywhere."""
    return load_experiment(name, default_root="somewhere")


def plain(value):
    """Tuples as lists, as YAML reads them."""
    return list(value) if isinstance(value, tuple) else value


def fault(span):
    """What is wrong with a code span of the column `HELD_BY`; None where it holds."""
    if span.startswith("tests/"):
        file, _, name = span.partition("::")
        path = ROOT / file
        stands = path.is_file() and re.search(rf"^def {re.escape(name)}\(", path.read_text(), re.MULTILINE)
        return None if stands else f"{span}: no such test"
    place, separator, rest = span.partition(": ")
    if separator:
        for word in rest.split(" "):
            key, value = parse_override(word)
            if type_of(key) is None:
                return f"{span}: no such key {key}"
            stated = functools.reduce(getattr, key.split("."), experiment(place))
            if plain(stated) != value:
                return f"{span}: {key} is {stated}"
        return None
    constant = re.fullmatch(r"(dcnlab[\w.]*):([\w.]+) = (.+)", span)
    if constant is None:
        return f"{span}: no test, no experiment with keys, and no constant"
    module, name, value = constant.groups()
    stated = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return None if plain(stated) == yaml_file.parse_value(value) else f"{span}: it is {stated}"


def faults(text):
    """Rows of the tables whose last cell names nothing, or something that does not hold."""
    lines = []
    for header, rows in tables_of(text):
        if header[-1] != HELD_BY:
            lines.append(f"{header}: the last column is not `{HELD_BY}`")
            continue
        for row in rows:
            spans = re.findall(r"`([^`]+)`", row[-1])
            named = [fault(span) for span in spans] or [f"{row[0]}: nothing holds it"]
            lines += [line for line in named if line is not None]
            lines += [f"{row[0]}: {len(row)} of {len(header)} cells are filled"] * (
                len(row) != len(header) or not all(row)
            )
    return lines


def test_every_difference_is_held_by_a_key_constant_or_test():
    """Experiments and constants have the values that the last column names, and the tests exist."""
    text = PAGE.read_text()
    assert sum(len(rows) for header, rows in tables_of(text)) >= 30
    assert faults(text) == []


def test_tests_and_keys_that_prose_names_hold_too():
    """A code span of the prose that names a test, or an experiment with keys, is checked like the tables'."""
    spans = re.findall(
        r"`(tests/[^`]+|[a-z]+/\w+: [^`]+)`", re.sub(r"^\|.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    )
    assert len(spans) >= 4
    assert [line for line in map(fault, spans) if line is not None] == []


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("the authors'", "a: nothing holds it"),
        ("`detection/rfcn_voc: optim.lr=0.002`", "`optim.lr` is 0.001"),
        ("`detection/rfcn_voc: optim.rate=0.002`", "no such key optim.rate"),
        ("`dcnlab.models.rfcn:BOXES = 3`", "it is 2"),
        ("`tests/integration/test_fidelity_page.py::test_of_nothing`", "no such test"),
        ("`optim.lr`", "no test, no experiment with keys, and no constant"),
    ],
)
def test_a_row_that_nothing_holds_is_found(cell, says):
    """An empty cell, a wrong value, key, constant and test, and a bare key are each named."""
    (line,) = faults(f"| what | held by |\n|---|---|\n| a | {cell} |\n")
    assert says.replace("`", "") in line


def test_a_row_that_holds_has_no_fault():
    """A key of a file with a list, a constant and a test are read."""
    held = "`detection/rfcn_coco: model.rpn.scales=[4,8,16,32] optim.warmup=0`, `dcnlab.models.rfcn:BOXES = 2`"
    own = "`tests/integration/test_fidelity_page.py::test_a_row_that_holds_has_no_fault`"
    assert faults(f"| what | held by |\n|---|---|\n| a | {held}, {own} |\n") == []
    assert faults("| what | why |\n|---|---|\n| a | b |\n") == ["['what', 'why']: the last column is not `held by`"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_number_in_prose_stands_in_what_a_command_prints(page):
    """No digit is left outside blocks, held tables, code and the names of `ALLOWED`."""
    assert numbers_in_prose(page.read_text()) == []


def test_a_number_in_prose_is_found():
    """Names, code, printed blocks and links may hold digits; a score, a percentage and a bare table may not."""
    free = "# 1. Head\n`x=3` table 1, ResNet-101 of VOC 2007 [a](b2.md)\n<!-- $ dcnlab x -->\n75\n<!-- end -->\n"
    assert numbers_in_prose(f"{free}| a | held by |\n|---|---|\n| 5 | `b` |\n") == []
    wrong = ["It gains 2.6 points.", "Up to 31% longer", "| a | 5 |", "2000 draws"]
    assert numbers_in_prose(free + "\n".join(wrong)) == wrong


def test_the_page_says_what_the_kept_runs_were_trained_with():
    """AdamW; ImageNet's frozen backbone and poly, or from scratch and cosine; and never one of the paper's networks."""
    kinds = set()
    for path in (ROOT / "evidence").glob("*/*/config.yaml"):
        config = yaml.load(path.read_text(), yaml.CSafeLoader)
        backbone, optim = config["model"]["backbone"], config["optim"]
        named = path.parts[-3].startswith("pretrained_")
        kinds.add(
            (named, optim["name"], optim["schedule"], backbone["name"], backbone["weights"], backbone["freeze_at"])
        )
    assert {(named, *kind[:-1]) for named, *kind in kinds} == {
        (False, "adamw", "cosine", "resnet10_slim", "none"),
        (True, "adamw", "poly", "efficientnet_lite0", "imagenet"),
    }
    assert {kind[-1] for kind in kinds if kind[0]} == {"all"}
    text = " ".join(PAGE.read_text().split())
    assert "those called `pretrained_*` on a frozen backbone with weights of ImageNet" in text
    assert "the others from scratch with a cosine schedule" in text
    assert "no kept run is of the paper's networks" in text
