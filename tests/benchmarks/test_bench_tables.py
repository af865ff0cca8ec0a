"""Tables of speed in the pages are those of the kept files; missed goals are marked; a broken file is one line."""

import json
import shlex
import shutil

import pytest
import result_files
import tables
from command_line import python
from locations import ROOT

import evidence
from dcnlab.training.run_folder import RunFolder

PAGES = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
MACHINE = {"device": "a CPU", "threads": 2, "date": "2026-01-02", "torch": "2", "torchvision": "0", "numba": "1"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results; keeps what it is called with as a benchmark's file."""
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)

    def keep(name, rows, **settings):
        content = {"schema": 1, "machine": MACHINE, "settings": settings, "rows": rows}
        (tmp_path / f"{name}_cpu.json").write_text(json.dumps(content))

    return keep


def layer(**changed):
    return {
        "channels": 256, "height": 8, "width": 9, "batch": 2, "dilation": 1, "shape": "a", "pass": "forward",
        "times_faster_than_torchvision": 4.04, "times_plain": 2.0, "ours_mib": 1.0, "torchvision_mib": 4.0,
    } | changed  # fmt: skip


def cells(text):
    """The rows of a markdown table, below its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_benchmark_tables_in_pages_are_up_to_date():
    """The tables in README and docs equal those made from benchmarks/results."""
    shown = {
        found["command"]: found[0].partition("-->\n")[2].removesuffix("<!-- end -->").strip()
        for page in PAGES
        for found in evidence.BLOCK.finditer(page.read_text())
        if found["command"].startswith("python benchmarks/")
    }
    assert {shlex.split(command)[-1] for command in shown} == set(tables.TABLES)
    for command, text in shown.items():
        words = shlex.split(command)
        assert words[:2] == ["python", "benchmarks/tables.py"]
        assert text == tables.TABLES[words[2]]().strip(), f"{command}: `make bench` fills the pages"


def test_a_layer_that_meets_its_goals_is_not_bold(results):
    """The row holds plain numbers, and a line below counts 6 of 6 goals as met."""
    both = {"pass": "both", "times_faster_than_torchvision": 6.0, "times_plain": 3.0}
    results("operators", [layer(), layer(**both)])
    text = tables.TABLES["operators"]()
    assert cells(text) == [["256 channels, 8x9", "2", "4.0", "2.0", "0.25", "6.0", "3.0", "0.25"]]
    assert "6 of 6 figures meet their goals." in text
    assert "a CPU, 2 threads, 2026-01-02, torch 2, torchvision 0, numba 1" in text


def test_missed_goals_are_bold_with_the_wanted_value(results):
    """Next to a missed value stands its goal; measurements left out for time are named."""
    slow = {"times_faster_than_torchvision": 2.46, "times_plain": 3.02, "ours_mib": 4.4}
    results("operators", [layer(dilation=2, **slow)], left_out=["b both"])
    text = tables.TABLES["operators"]()
    missed = ["**2.46** (≥ 2.5)", "**3.02** (≤ 3)", "**1.1** (≤ 1)"]
    assert cells(text) == [["256 channels, 8x9, dilation 2", "2", *missed, "", "", ""]]
    assert "0 of 3 figures meet their goals" in text
    assert "Left out for lack of time: b both." in text


def test_many_measurements_that_were_left_out_are_counted(results):
    results("operators", [layer()], left_out=list("abcdef"))
    assert "Left out for lack of time: 6 measurements." in tables.TABLES["operators"]()


def test_goals_leave_out_layers_of_64_channels(results):
    """A layer of 64 channels that is slow next to the plain convolution misses no goal."""
    results("operators", [layer(channels=64, times_plain=50.0)])
    assert "2 of 2 figures meet their goals." in tables.TABLES["operators"]()


def test_a_depthwise_layer_may_take_ten_times_plain(results):
    """The row names kernel and channels; 10.4 times plain is bold with its goal."""
    results("depthwise", [layer(kernel=5, times_plain=9.9), layer(kernel=5, **{"pass": "both", "times_plain": 10.4})])
    text = tables.TABLES["depthwise"]()
    line = ["4.0", "9.9", "0.25", "**4.04** (≥ 6)", "**10.4** (≤ 10)", "0.25"]
    assert cells(text) == [["5x5, 256 channels, 8x9", "2", *line]]
    assert "4 of 6 figures meet their goals" in text


def test_a_network_that_costs_too_much_is_marked(results):
    """A training step may cost 60% more than the plain network's; 65% is bold."""
    row = {"network": "rfcn", "pass": "training", "plain_ms": 1000.0, "ours_ms": 1650.0, "torchvision_ms": 3000.0}
    row |= {"times_plain": 1.65, "torchvision_times_plain": 3.0, "images_per_second": 0.606}
    results("networks", [row], backbone="resnet101", size="320x480")
    text = tables.TABLES["networks"]()
    line = ["R-FCN, training step", "1,000 ms", "1,650 ms (**65** (≤ 60)%)", "3,000 ms (+200%)", "0.61"]
    assert cells(text) == [line]
    assert "0 of 1 figures" in text


def test_around_table_shows_peers_and_goals(results):
    """Loading, decoding, scoring and start-up times stand next to the peer's time and the goal."""
    waiting = {"what": "waiting", "workers": 4, "share_waiting": 0.062, "photographs": "camvid"}
    decode = {"what": "decode", "images": 9, "photographs": "made"}
    decode |= {"ours_images_per_second": 30.0, "torchvision_images_per_second": 25.0}
    results("feeding", [waiting, decode])
    works = {"dcnlab coco": 0.7, "faster-coco-eval alone": 0.8}
    results("scoring", [{"work": work, "seconds": seconds} for work, seconds in works.items()], scored_images=500)
    commands = {"import torch": 1.5, "import dcnlab.ops": 1.52, "dcnlab --help": 0.3}
    rows = [{"command": command, "seconds": seconds} for command, seconds in commands.items()]
    first = {"empty_cache_seconds": 3.0, "cached_seconds": 0.5, "second_seconds": 0.004}
    results("startup", [*rows, {"command": "first deform_conv2d, both", **first}])
    text = tables.TABLES["around"]()
    assert [line[1:] for line in cells(text)] == [
        ["**6.2** (≤ 5)%", "", "below 5%"],
        ["30 images/s", "torchvision: 25 images/s", ""],
        ["0.70 s", "faster-coco-eval: 0.80 s", "at most as long"],
        ["+0.02 s", "`import torch`: 1.50 s", "at most +0.3 s"],
        ["0.30 s", "", "below 1 s"],
        ["3.00 s", "cached on disk: 0.50 s; second call: 0.004 s", ""],
    ]


def test_growth_shows_the_plot_and_the_slopes_of_its_lines(results):
    """A quadratic and a linear cost give slopes 2 and 1 in the table."""
    results("growth", [{"axis": "batch", "at": at, "ours_ms": 3.0 * at**2, "plain_ms": 1.0 * at} for at in (1, 2, 8)])
    text = tables.TABLES["growth"]()
    assert "](images/growth_cpu.png)" in text
    assert cells(text) == [["batch", "2.00", "1.00"]]


def test_a_missing_measurement_names_its_make_target(results):
    """The page then holds one line with the command that writes the file."""
    text = tables.TABLES["networks"]()
    assert text == "Networks: not measured yet; `make bench` writes `benchmarks/results/networks_cpu.json`."
    assert tables.TABLES["around"]().count("not measured yet") == 3


def result(*rows, **other):
    return json.dumps({"schema": 1, "settings": {}, "machine": MACHINE, "rows": rows} | other)


BROKEN = {
    "cut short": result(layer())[:-9],
    "another schema": result(layer(), schema=2),
    "no rows": result(),
    "a list": "[]",
    "no machine": result(layer(), machine={}),
    "a row without its columns": result({"shape": "a"}),
    "a row that is none": result(3),
    "a word for a number": result(layer(times_plain="fast")),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_result_file_is_named_in_one_line(content, tmp_path, monkeypatch):
    """The message says that `make bench` writes the file anew."""
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    (tmp_path / "operators_cpu.json").write_text(content)
    with pytest.raises(
        result_files.Unreadable, match=r"\Abenchmarks/results/operators_cpu\.json .*make bench writes it anew\Z"
    ):
        tables.TABLES["operators"]()


def test_tables_exits_with_status_1_on_a_broken_file(tmp_path):
    """stdout stays empty, so that no half table enters a page."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/operators_cpu.json").write_text("{")
    for name in ("result_files.py", "around_table.py", "summary_table.py", "tables.py"):
        script = shutil.copy(ROOT / "benchmarks" / name, tmp_path)
    done = python(script, "operators")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_evidence_fills_only_the_chosen_commands(tmp_path):
    """Blocks of other commands in the page keep their text."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- $ dcnlab table x -->\nkept\n<!-- end -->\n<!-- $ python benchmarks/y.py -->\nold\n<!-- end -->\n"
    )

    def output(command):
        return f"new of {command}"

    assert evidence.fill(page, only="python benchmarks/", output=output)
    assert "kept\n" in page.read_text()
    assert "new of python benchmarks/y.py\n" in page.read_text()
    assert "old\n" not in page.read_text()
    assert not evidence.fill(page, only="python benchmarks/", output=output)


def test_evidence_keeps_the_record_of_test_images(tmp_path, monkeypatch):
    """test_images.npz lies next to results.json, byte for byte; runs without one are kept as well."""
    monkeypatch.setattr(evidence, "HERE", tmp_path / "page")
    sections = {key: {} for key in ("parameters", "metrics", "model", "cost", "environment")}
    for id in ("old", "new"):
        folder = RunFolder(tmp_path / "runs/some" / id)
        folder.path.mkdir(parents=True)
        folder.config.write_text("seed: 0\n")
        folder.write_results({"schema": 1, "seed": 0, "status": "finished", **sections})
    folder.test_images.write_bytes(b"\x93any bytes")
    new, old = (RunFolder(path) for path in evidence.keep([tmp_path / "runs"]))
    assert new.test_images.read_bytes() == b"\x93any bytes"
    assert old.results.is_file()
    assert not old.test_images.exists()
