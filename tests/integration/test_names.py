"""Names from files are data: no terminal obeys them, no spreadsheet computes them, and none ends a command."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from command_line import dcnlab, environment
from report_runs import write_curve, write_run

from dcnlab import score
from dcnlab.ablations.report import page, template
from dcnlab.ablations.tables import build_table, render, run_record, table
from dcnlab.ablations.tables.block import Block
from dcnlab.config.load import load_experiment
from dcnlab.io import text
from dcnlab.io.errors import ConfigError

HOSTILE = [
    "\x1b]0;owned\x07", "\x1b[2J\x1b[31mred", "\x9b31m", "a\rb", "a\nb", "a\tb", "\x00", "\x7f", "\u202egnp.exe",
    "\u2066x\u2069",    "\u200fx", "a\u2028b", "\u0085", "\ufeffx", "\U000e0041",
]  # fmt: skip
SURROGATES = ["\ud800", "caf\udce9"]


def is_safe(shown, ends=""):
    """Whether nothing in a text moves a terminal's cursor, turns its order or cannot be encoded."""
    return all(sign in ends or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in shown)


@pytest.mark.parametrize("name", HOSTILE + SURROGATES)
def test_control_characters_are_printed_as_escapes(name, capsys):
    """A terminal would obey them; the escape reads back in JSON as the same text."""
    shown = text.visible(name)
    assert is_safe(shown)
    text.say(name)
    assert capsys.readouterr().out == shown + "\n"
    # As JSON reads it, it is the same text again.
    assert len(name) > 1 or "\\U" in shown or json.loads(f'"{shown}"') == name


@pytest.mark.parametrize("name", ["café", "猫", "میز", "क्‍ष", "👩‍🔬", "naïve ±", "a b", "\\u0041", "[red]x[/red]"])
def test_names_in_any_script_stay_as_they_are(name):
    """Accents, joiners and emoji are not control characters."""
    assert text.visible(name) == name


def test_every_print_uses_text_say():
    """No other module calls print or writes to stdout or stderr; text.say escapes control characters."""
    package = Path(text.__file__).parents[1]
    raw = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"(?<![\w.])print\(|std(out|err)\.write\(", line) and path.name != "text.py"
    ]
    assert raw == []


def test_text_is_printed_whatever_the_terminal_encodes():
    """stdout of ASCII must not raise UnicodeEncodeError."""
    code = "from dcnlab.io.text import say; say('± \\udce9 猫')"
    env = environment(PYTHONIOENCODING="ascii")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\\xb1 \\udce9 \\u732b\n"), done.stderr


# Tables


BLOCK = [Block("cap|tion\n\x1b[31m", ["na|me\u202e", "x"], [["`a`|<b>\n\x1b", "1.5"], ["[red]b[/red]", "-2"]])]


@pytest.mark.parametrize("form", ["markdown", "latex", "rich"])
def test_hostile_names_stay_text_in_every_table_format(form, capsys):
    """Markdown, LaTeX and rich would otherwise obey their markup."""
    if form == "rich":
        render.show(BLOCK)
        made = capsys.readouterr().out
        assert "[red]b[/red]" in made
    else:
        made = render.render([], BLOCK, form)
    assert is_safe(made, "\n")


def test_markdown_tables_escape_pipes_code_and_html():
    """A pipe in a name must not add a column."""
    made = render.render([], BLOCK, "markdown").splitlines()
    rows = [line for line in made if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in rows] == [3] * 4
    assert not re.search(r"(?<!\\)[`<]", "".join(made))


def test_a_caption_in_latex_is_one_escaped_line():
    """A line break or an escape in a name is written out, and no command of LaTeX comes from it."""
    made = render.render([], BLOCK, "latex")
    assert made.splitlines()[2] == r"\caption{cap|tion\textbackslash{}u000a\textbackslash{}u001b[31m.}"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", " =1", "\uff1d1", "\t=1", "\r=1"])
def test_csv_cells_never_start_a_formula(name):
    """Cells that begin like a formula get a quote in front; negative numbers stay numbers."""
    rows = [{name: 1.5, "who": name, "minus": -0.5, "text": "-0.5", "none": None, "many": [name]}]
    read = list(csv.DictReader(io.StringIO(render.render(rows, [], "csv"))))
    assert not [cell for cell in (*read[0], *read[0].values()) if cell[:1] in ("=", "+", "-", "@", "\t", "\r")
                and not re.fullmatch(r"-?[0-9.]+", cell)]  # fmt: skip
    assert (read[0]["minus"], read[0]["text"], read[0]["none"]) == ("-0.5", "-0.5", "")
    assert read[0]["who"].startswith(("'", "\\u00"))


def test_hostile_class_names_keep_score_tables_readable():
    """Text, Markdown and JSON hold no control character and keep a line for each class."""
    scores = {"miou": 50.0, **{f"iou/{name}": 50.0 for name in [*HOSTILE, "a|b", "`c`"]}, "iou/lost\x1b": float("nan")}
    for form in ("text", "markdown", "json"):
        made = score.render(scores, form)
        assert is_safe(text.visible(made, "\n") if form == "json" else made, "\n")
        assert len(made.splitlines()) >= 20
    assert json.loads(text.visible(score.render(scores, "json"), "\n"))["iou/\x7f"] == 50.0


def test_the_report_shows_hostile_names_as_text():
    for name in HOSTILE + SURROGATES:
        made = template.environment().from_string('<p title="{{ name }}">{{ name }}</p>').render(name=name)
        assert is_safe(made, "\n\t")
        made.encode()


# Commands, with one hostile folder beside good ones


@pytest.fixture
def folders(tiny):
    """Two runs of a good name, and folders that hold what no run writes."""
    for seed in (0, 1):
        write_curve(write_run(Path("runs/good") / f"s{seed}", 70.0 + seed, {"seed": seed}, seed=seed), [2.0, 1.0], 50.0)
    good = json.loads(Path("runs/good/s0/results.json").read_text())
    made = {
        "surrogate": {"metrics": {"ap50": 1.0, "\ud800": 2.0}},
        "controls": {"metrics": {"top1": 1.0, "\x1b[31miou/x": 2.0}, "parameters": {"\x1b]0;x\x07": "\u202e=1"}},
        "numbers": {"environment": {"world_size": "8", "torch": "2"}},
        "many": {"metrics": {f"metric {number}": 1.0 for number in range(5000)}},
        "long": {"metrics": {"x" * 10**6: 1.0}},
        "reason": {"status": "failed", "reason": "\x1b[31mred\u202e \x9b"},
    }
    for name, change in made.items():
        folder = Path("runs/evil") / name
        shutil.copytree("runs/good/s0", folder)
        (folder / "results.json").write_text(json.dumps({**good, "parameters": {}, **change}))
    for name, file in (
        ("pipe", "results.json"),
        ("config", "config.yaml"),
        ("log", "log.txt"),
        ("curve", "metrics.csv"),
    ):
        shutil.copytree("runs/good/s0", Path("runs/odd") / name)
        (Path("runs/odd") / name / file).unlink(missing_ok=True)
        os.mkfifo(Path("runs/odd") / name / file)
    shutil.copytree("runs/good/s0", os.fsdecode(b"runs/odd/name\xff\x1b[31m"))
    (Path("runs/good/s1") / "metrics.csv").write_text(
        "step,train/loss\n1,2\n" + "x" * 200_000
    )  # longer than CSV allows
    (Path("runs/good/s1") / "dilation.json").write_text('{"rows": [{"layer": 1}]}')
    (Path("runs/good/s1") / "robustness.json").write_text('{"metric": "top1", "rotation": [[NaN, 1e999]], "scale": []}')
    return Path("runs")


def test_one_hostile_folder_does_not_stop_the_report_of_all(folders):
    """Folders with broken results and curves are named, and the means of the good runs stay."""
    text_of = page.write(folders).read_text()
    assert is_safe(text_of, "\n\t")
    for name in ("surrogate", "numbers", "many", "long", "pipe", "curve"):
        assert re.search(rf"left out: [^<]*{'s1/metrics' if name == 'curve' else name}", text_of), name
    assert "70.50 ± 0.71" in text_of
    assert "robustness.json: not a metric" in text_of


@pytest.mark.parametrize("form", ["rich", "csv"])
def test_one_hostile_folder_does_not_stop_the_table_of_all(folders, form):
    """Each broken results.json is a short note, and the good runs' mean is shown."""
    done = dcnlab("table", "good", "--format", form)
    assert done.returncode == 0, done.stderr
    assert "70.5" in done.stdout
    for name in ("surrogate", "numbers", "many", "long", "pipe"):
        assert re.search(rf"^note: left out: \S*{name}/results\.json: ", done.stderr, re.MULTILINE), done.stderr
    assert is_safe(done.stdout + done.stderr, "\n")
    assert max(map(len, done.stderr.splitlines())) < 3000


def test_a_table_of_hostile_runs_is_safe_to_look_at(folders, capsys):
    shutil.rmtree("runs/odd")
    for name in ("many", "long", "numbers", "surrogate", "reason"):
        shutil.rmtree(f"runs/evil/{name}")
    made = build_table.assemble("evil", [Path("runs")])
    assert len(made.rows) == 1
    for form in ("markdown", "latex", "csv"):
        assert is_safe(table.render(made, form), "\n")
    table.show(made)
    shown = capsys.readouterr().out
    assert is_safe(shown, "\n")
    assert "\\u202e=1" in shown


def test_table2_names_invalid_dilation_files(folders):
    """A dilation.json that is not ours is left out with a note; the others count."""
    found, notes = run_record.records([Path("runs/good")])
    with pytest.raises(ConfigError, match=r"left out: \S*s1/dilation\.json: not what dcnlab dilation writes"):
        build_table.of_records("table2", found, notes)
    measured = {"mean": 2.0, "std": 0.5, "count": 7}
    row = {"layer": "layer4.2.conv2", **dict.fromkeys(("small", "medium", "large", "background"), measured)}
    Path("runs/good/s0/dilation.json").write_text(json.dumps({"rows": [row]}))
    made = build_table.of_records("table2", found, notes)
    assert len(made.rows) == 1
    assert [note for note in made.notes if note.startswith("left out: ")]


def test_a_message_about_a_hostile_name_is_one_safe_line(tiny):
    """Escapes, direction marks, line breaks and bytes that are not UTF-8 in arguments."""
    for word in ("evil\x1b[31m\u202e.yaml", "two\nlines.yaml"):
        done = dcnlab("fit", word)
        assert (done.returncode, done.stdout) == (2, "")
        assert is_safe(done.stderr, "\n")
        assert done.stderr.count("\n") == 1
    done = dcnlab("fit", tiny, b"data.root=/caf\xe9".decode(errors="surrogateescape"))
    assert done.returncode == 2
    assert done.stderr == "dcnlab: command line: data.root /caf\\udce9 is not UTF-8; rename it\n"


def test_a_failed_trials_log_is_printed_with_escapes(tiny):
    """A trial that writes escape sequences to its log cannot clear the terminal."""
    command = 'command: ["${env}", dcnlab, fit, "${program}", "${args_json_file}"]'
    Path("sweep.yaml").write_text(
        f"method: grid\nprogram: tiny.yaml\n{command}\nparameters: {{seed: {{values: [0]}}}}\n"
    )
    evil = "import os,sys; sys.stdout.write('\\x1b[2J\\u202e'); os._exit(3)"
    # A sitecustomize of the trial alone, which knows its parent's variable.
    Path("site").mkdir()
    Path("site/sitecustomize.py").write_text(f"import os\nif 'DCNLAB_PARENT' in os.environ:\n    exec({evil!r})\n")
    env = environment()
    done = dcnlab("sweep", "sweep.yaml", PYTHONPATH=f"{env['PYTHONPATH']}{os.pathsep}{Path('site').resolve()}")
    assert done.returncode == 1, done.stderr
    assert "FAILED" in done.stdout
    assert is_safe(done.stdout, "\n")


def test_extends_is_limited_to_20_files(tiny):
    """A shorter chain loads; a longer one is refused in one line."""
    for number in range(30):
        Path(f"e{number}.yaml").write_text(f"extends: e{number + 1}.yaml\n")
    Path("e30.yaml").write_text("seed: 4\n")
    assert load_experiment("e12.yaml", ["trainer.max_steps=1"]).seed == 4
    with pytest.raises(ConfigError, match=r"\Ae0\.yaml: extends a chain of more than 20 files; [^\n]*e20\.yaml is one"):
        load_experiment("e0.yaml")
