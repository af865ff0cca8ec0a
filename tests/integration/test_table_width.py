"""Tables of kept runs fit a terminal of 80 columns, and no cell is cut."""

import re
from pathlib import Path

import pytest
from locations import ROOT
from rich.cells import cell_len

from dcnlab.ablations.tables import build_table, fitting, latex, table
from dcnlab.ablations.tables.block import Block


@pytest.mark.parametrize("name", ["quickstart", "table1", "related_work", "table3"])
def test_kept_tables_fit_80_columns_with_all_their_cells(name, monkeypatch, capsys):
    """No line is longer, and each cell of the whole table stands in the text, in one piece."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(ROOT)
    whole = build_table.assemble(name, [Path("evidence")])
    table.show(whole)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    words = {word for line in lines for word in re.split(r"\s{2,}", line.strip())}
    cells = [cell for block in table.blocks(whole, "") for line in block.lines for cell in line if cell]
    assert len(cells) > 20
    assert not [cell for cell in cells if cell not in words]
    assert not any("…" in line for line in lines)


def test_a_wide_table_repeats_the_names_of_its_rows():
    """Groups stay together where they fit; the first columns stand in each part, the caption in the first."""
    header = ["row", *"abcdef"]
    block = Block("words", header, [["one", *(["123456789"] * 6)]], [1, 2, 2, 2])
    cut = fitting.parts(block, 45)
    assert [part.header for part in cut] == [["row", "a", "b"], ["row", "c", "d"], ["row", "e", "f"]]
    assert [part.caption for part in cut] == ["words", "", ""]
    assert [part.header for part in fitting.parts(block, 20)] == [["row", name] for name in "abcdef"]
    assert fitting.parts(block, 100) == [block]


def test_latex_is_ready_for_a_paper():
    """Caption, label, booktabs and math signs; a conclusion becomes bold, and seconds are left out."""
    made = latex.table(
        "table3: modules & pooling",
        ["setting", "top1 (%)", "difference [low, high]", "seconds"],
        [["plain", "71.57 ± 2.92", "", "1.0"], ["STN_2", "74.06 ± 2.29", "+2.49 [+0.84, +4.15] better", "1.0"]],
    )
    assert made.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{table3: modules \& pooling.}",
        r"\label{tab:table3-modules-pooling}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"setting & top1 (\%) & difference [low, high] \\",
        r"\midrule",
        r"plain & 71.57 $\pm$ 2.92 &  \\",
        r"STN\_2 & 74.06 $\pm$ 2.29 & \textbf{$+2.49$ [$+0.84$, $+4.15$]} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
