"""The report's page holds the worked-out figures, is safe whatever the runs say, and repeats them."""

import contextlib
import os
import re
import shlex
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import dcnlab
from report_runs import SCRIPT, write_curve, write_everything, write_run

from dcnlab.ablations.plots import chart_shapes, row_charts
from dcnlab.ablations.report import curves, gather, page, template
from dcnlab.ablations.report.pictures import Album
from dcnlab.cli import main
from dcnlab.config.load import to_yaml
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import confusion, names
from dcnlab.metrics.dilation_sizes import SIZES
from dcnlab.tasks import confusion_picture
from dcnlab.training import run_search
from dcnlab.training.run_folder import RunFolder


class Reader(HTMLParser):
    """A page as its reader meets it: tables of text, elements with their attributes, all words."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.elements, self.words = {}, [], []
        self._cell = self._caption = None
        self._row = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("th", "td", "caption"):
            self._cell = []
        if tag == "tr":
            self._row = []

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption = "".join(self._cell)
            self.tables[self._caption] = []
        elif tag in ("th", "td"):
            self._row.append("".join(self._cell))
        elif tag == "tr":
            self.tables[self._caption].append(self._row)
        if tag in ("th", "td", "caption"):
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with runs of all kinds and their report."""
    home = tmp_path_factory.mktemp("everything")
    with contextlib.chdir(home):
        write_everything(Path("runs"))
        page.write(Path("runs"))
    return home


@pytest.fixture
def runs_folder(everything, tmp_path, monkeypatch):
    """A copy to spoil."""
    shutil.copytree(everything, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs")


@pytest.fixture(scope="module")
def read(everything):
    return Reader((everything / "runs" / "report.html").read_text())


def table(read, words):
    [found] = [lines for caption, lines in read.tables.items() if words in caption]
    return found


def test_report_table_equals_hand_worked_means_and_std(read):
    """Three seeds of two settings give 73.00 ± 3.61 and 75.50 ± 0.50, difference +2.50."""
    header, none, three = table(read, "layers: mean and spread")
    assert header == ["deform_layers", "top-1 accuracy (%)", "difference [low, high]", "seeds"]  # costs stand apart
    assert none[:4] == ["0", "73.00 ± 3.61", "", "3"]
    assert three[:4] == ["3", "75.50 ± 0.50", "+2.50 [-5.26, +10.26] no conclusion", "3"]


def test_overview_states_the_gain_and_its_interval(read):
    """The seeds differ by 5, 3.5 and -1: Student's t interval is 2.5 ± 4.3027 x 3.1225 / sqrt(3), which covers zero."""
    text = " ".join("".join(read.words).split())
    assert (
        "layers: top-1 accuracy is highest at 3 deformable: 75.50 ± 0.50 %, +2.50 against plain [-5.26, +10.26] "
        "over 3 seeds that both have: no conclusion." in text
    )
    assert "Runs: 8 finished, 1 failed, 2 unfinished, 1 interrupted." in text


def test_class_table_shows_differences_to_the_first_column(read):
    """Each class has one row; a class named like a script is shown as text."""
    header, sky, script = table(read, "IoU of each class")
    assert header == ["class", "plain", "3 deformable"]
    assert sky == ["Sky", "81.0 ± 1.0", "84.0 ± 1.0 (+3.0)"]
    assert script == [SCRIPT, "10.0 ± 10.0", "10.0 ± 10.0 (+0.0)"]


def test_measured_dilation_stands_next_to_the_papers(read):
    """A run's dilation.json becomes one row for each layer, with the paper's layer and values."""
    header, row = table(read, "3 deformable, runs/layers/l3s0")
    assert header == ["layer", *SIZES, "paper's layer", *(f"paper: {size}" for size in SIZES)]
    assert row[:5] == ["layer4.2.conv2", "5.00 ± 0.50", "5.00 ± 0.50", "5.00 ± 0.50", "–"]
    assert row[5:] == ["res5c", "5.3 ± 3.3", "5.8 ± 3.5", "8.4 ± 4.5", "6.2 ± 3.0"]


def test_the_overview_draws_gains_and_a_picture(read):
    """The chart holds each table's best row with its interval; the picture is of the best row."""
    [chart] = [svg["aria-label"] for svg in read.all("svg") if svg.get("aria-label", "").startswith("difference.")]
    assert chart == "difference. layers: 3 deformable: +2.50, -5.26 to +10.26; mixed: lr 0.2: +1.00"
    first = read.all("img")[0]
    assert first["alt"] == "test images of layers: 3 deformable, seed 0"


def test_confusion_is_summed_over_a_rows_runs(tmp_path, monkeypatch):
    """Of 4 + 4 dogs of plain 1 + 3 are found as cats, 50%; pictures are of the first seed, at half their pixels."""
    monkeypatch.chdir(tmp_path)
    counts = {(0, 0): [[4, 0], [1, 3]], (0, 1): [[4, 0], [3, 1]], (3, 0): [[4, 0], [0, 4]]}
    for (layers, seed), matrix in counts.items():
        parameters = {"model.deform_layers": layers}
        folder = RunFolder(write_run(f"runs/pets/{layers}{seed}", 50 + layers, parameters, seed=seed))
        counted = confusion.of(["cat", "dog"], matrix, "images")
        confusion.write(folder.confusion, counted)
        folder.pictures.mkdir()
        confusion_picture.draw(counted).save(folder.confusion_picture)
    read = Reader(page.render(gather.report(Path("runs"))))
    assert table(read, "classes confused most") == [
        ["label as found", "plain", "3 deformable"],
        ["dog as cat", "50.0", "0.0"],
    ]
    shown = [image for image in read.all("img") if image["alt"].startswith("confusion matrix of")]
    assert [image["alt"] for image in shown] == [
        f"confusion matrix of {row}, seed 0" for row in ("plain", "3 deformable")
    ]
    first = confusion_picture.draw(confusion.of(["cat", "dog"], counts[0, 0], "images"))
    assert int(shown[0]["width"]) == first.width // 2


def test_a_broken_confusion_matrix_is_named(runs_folder):
    """The rest of the page is shown, and a note names the file."""
    (runs_folder / "layers" / "l0s0" / "confusion.json").write_text("[]")
    text = page.render(gather.report(runs_folder))
    assert "l0s0/confusion.json holds no confusion matrix" in text


def test_long_labels_are_wrapped_and_never_cut():
    """Each word of a long name is in the chart, on lines of at most 38 letters, and rows keep their distance."""
    label = "3 deformable modulated, dilation 4, offset_lr_scale 0.1, effective_batch 64"
    chart = row_charts.dots("AP50", "caption", [(label, [1.0, 2.0]), ("plain", [1.5])])
    words = [(shape.text, float(shape.attributes["y"])) for shape in chart.shapes if is_label(shape)]
    lines = [text for text, _ in words[:-3]]
    assert " ".join(lines) == label
    assert max(map(len, lines)) <= 38
    assert [text for text, _ in words[-3:]] == ["1.50 ± 0.71", "plain", "1.50"]
    assert words[-2][1] - words[-3][1] > 30
    assert float(chart.height) > words[-1][1] + 40


def is_label(shape):
    return shape.attributes.get("class") == "label"


def test_metrics_are_written_as_people_say_them():
    """Names of results.json stay in files; captions have words."""
    spoken = [names.spoken(name) for name in ("top1", "miou", "ap", "ap50", "iou/road", "ap/cat", "mine")]
    assert spoken == ["top-1 accuracy", "mean IoU", "AP", "AP50", "IoU of road", "AP of cat", "mine"]


def test_costs_are_means_over_the_runs_of_a_row(read):
    """Parameters, MACs, seconds, throughput and memory of a row's runs."""
    header, none, _ = table(read, "layers: costs")
    assert none == ["0", "68,266", "8.32", "31.0", "700.0", "512"]
    assert header[-1] == "peak memory (MiB)"


def test_single_fits_share_a_table_of_their_settings(read):
    """Two fits of different rates are two rows of one section, named by the setting in which they differ."""
    header, slow, fast = table(read, "mixed: mean and spread")
    assert header[:3] == ["lr", "top-1 accuracy (%)", "difference [low, high]"]
    assert (slow[:3], fast[:3]) == (["0.1", "50.00", ""], ["0.2", "51.00", "+1.00"])
    assert not [words for words in read.words if "of 2)" in words]


def test_sweeps_of_other_settings_get_separate_tables(tmp_path, monkeypatch):
    """Trials that differ in more than their sweep set are two tables; the page names the setting that differs."""
    monkeypatch.chdir(tmp_path)
    for number, lr in enumerate((0.1, 0.2)):
        write_run(f"runs/mixed/{number}", 50.0 + number, {"model.deform_layers": 1}, settings=[f"optim.lr={lr}"])
    read = Reader(page.render(gather.report(Path("runs"))))
    assert table(read, "mixed (1 of 2): mean and spread")[1][1] == "50.00"
    assert table(read, "mixed (2 of 2): mean and spread")[1][1] == "51.00"
    assert any("mixed: the runs are of 2 sets of settings, which one table cannot mix" in word for word in read.words)
    assert "Of the runs of this name, those with optim.lr 0.2." in read.words
    assert table(read, "mixed: one table for each set of settings") == [
        ["table", "optim.lr", "metric", "score (%)"],
        ["mixed (1 of 2)", "0.1", "top-1 accuracy", "50.00"],
        ["mixed (2 of 2)", "0.2", "top-1 accuracy", "51.00"],
    ]


def test_fits_of_two_tasks_do_not_share_a_table(tmp_path, monkeypatch):
    """An experiment called quickstart exists for each task; their runs have one name and no common metric."""
    monkeypatch.chdir(tmp_path)
    write_run("runs/quickstart/a", 50.0)
    write_run("runs/quickstart/b", settings=["task=segmentation", "model.name=deeplab"], metrics={"miou": 40.0})
    groups = gather.report(Path("runs")).groups
    assert [group.section.shown for group in groups] == [["top1"], ["miou"]]


def test_runs_without_a_score_show_reason_and_next_command(read):
    """Failed, stopped, killed and never started runs each have a reason and a command to continue."""
    rows = {row[0]: row[1:] for row in table(read, "Failed, interrupted")[1:]}
    assert rows["runs/broken/failed"][0] == "failed"
    assert SCRIPT in rows["runs/broken/failed"][2]
    assert "\x1b" not in rows["runs/broken/failed"][2]
    assert rows["runs/broken/stopped"] == [
        "interrupted",
        "",
        "stopped from outside",
        "dcnlab resume runs/broken/stopped",
    ]
    assert rows["runs/broken/killed"][2] == "no results: still running, or killed."
    assert rows["runs/broken/killed"][3] == "dcnlab fit runs/broken/killed/config.yaml"
    assert rows["runs/broken/unborn"][3] == "run its sweep again"
    assert rows["runs/broken/unborn"][1] == "model.deform_layers 9"
    assert rows["runs/broken/unborn"][2].endswith("Its log ends with: dcnlab: model.deform_layers is 9")


def test_run_texts_never_become_markup(runs_folder):
    """A folder named like an image tag with a handler is shown as text."""
    evil = runs_folder / '"><img src=x onerror=alert(1)>'
    evil.mkdir()
    (runs_folder / "mixed" / "lr0").rename(evil / "a'b")
    text = page.write(runs_folder).read_text()
    read = Reader(text)
    assert text.count("<script") == 1
    assert not [attributes for attributes in read.all("img") if not attributes["src"].startswith("data:image/webp")]
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert evil.name in "".join(read.words)


def test_the_report_refers_to_no_other_file_or_address(read, everything):
    """Links lead into the page or hold data, and the policy allows nothing from elsewhere."""
    text = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]*", "", (everything / "runs" / "report.html").read_text())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text, re.IGNORECASE)
    links = [value for _, attributes in read.elements for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    [policy] = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_pictures_are_embedded_small_with_alt_text(read):
    """Each picture is 640 pixels wide below the overview's, and its text names the run's setting and seed."""
    pictures = read.all("img")[1:]
    assert [(one["width"], one["height"]) for one in pictures] == [("640", "160")] * 2
    assert [one["alt"] for one in pictures] == [
        f"pictures/0.png of {name}, seed 0" for name in ("plain", "3 deformable")
    ]


def test_a_full_page_names_the_pictures_it_leaves_out(runs_folder, monkeypatch):
    """With a budget of one picture the second is named, and an unreadable file is skipped."""
    monkeypatch.setattr("dcnlab.ablations.report.page.Album", lambda: Album(budget=1))
    (runs_folder / "layers/l0s0/pictures/1.png").write_text("no picture")
    read = Reader(page.write(runs_folder).read_text())
    assert len(read.all("img")) == 1
    assert "left out: runs/layers/l3s0/pictures/0.png: the page is full" in read.words


def test_files_that_are_not_pictures_or_measurements_are_named(runs_folder):
    """A broken PNG and two broken JSON files are left out with the reason."""
    run = runs_folder / "layers/l0s0"
    (run / "pictures/1.png").write_text("no picture")
    (run / "dilation.json").write_text("{")
    (run / "robustness.json").write_text('{"metric": "top1", "rotation": [1, 2]}')
    words = "\n".join(Reader(page.write(runs_folder).read_text()).words)
    assert "left out: runs/layers/l0s0/pictures/1.png: no picture" in words
    assert "runs/layers/l0s0/dilation.json: not JSON" in words
    assert "runs/layers/l0s0/robustness.json: not a metric with pairs of rotation and percent" in words


def test_curves_show_mean_and_range_of_all_runs(tmp_path, monkeypatch):
    """A step counts only where every run has a value: the longer run's last step is left out."""
    monkeypatch.chdir(tmp_path)
    for seed, loss in enumerate(([4.0, 2.0, 1.0], [6.0, 4.0])):
        write_curve(write_run(f"runs/a/{seed}", 50.0, {"seed": seed}, seed=seed), loss, 40.0)
    [group] = gather.report(Path("runs")).groups
    [curve] = curves.curves(group.rows)["train/loss"]
    assert (curve.x, curve.mean, curve.low, curve.high, curve.runs) == ([0, 1], [5, 3], [4, 2], [6, 4], 2)


def test_long_curves_are_averaged_over_neighbouring_steps():
    """1000 points become 100, each the mean of ten steps."""
    curve = curves.envelope("a", [{float(step): float(step) for step in range(1000)}], 100)
    assert len(curve.x) == 100
    assert (curve.x[0], curve.mean[0]) == (statistics.fmean(range(10)),) * 2


def test_nonfinite_values_leave_gaps_in_curves(tmp_path):
    """NaN, infinity and cut lines of metrics.csv give no point."""
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,1,nan\n0,2,inf\n0,3,2.5\n,,\n0,4,x\n")
    assert curves.read_metrics(tmp_path / "metrics.csv") == {"train/loss": {3.0: 2.5}}


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (68.2, 76.3, [68, 70, 72, 74, 76, 78]),
        (-90, 90, [-100, -50, 0, 50, 100]),
    ],
)
def test_axis_ticks_are_round_and_cover_the_range(low, high, wanted):
    """Ticks worked out by hand for several ranges."""
    assert chart_shapes.ticks(low, high, 5) == pytest.approx(wanted)


def test_ticks_of_a_single_value_stand_around_it():
    """A range of width zero must not divide by zero."""
    found = chart_shapes.ticks(0.0, 0.0, 5)
    assert found[0] < 0 < found[-1]


def test_templates_escape_text_and_attributes():
    source = '<p title="{{ title }}" id="{{ nothing }}">{{ text }}{{ bell }}</p>'
    made = template.environment().from_string(source).render(title='"<&', nothing=None, text="a<b", bell="\x00")
    assert made == '<p title="&#34;&lt;&amp;" id="">a&lt;b\\u0000</p>'


def test_long_names_break_after_underscores():
    """The break is markup, the rest of the name stays escaped."""
    assert template.breakable("a_<b>_\u202e") == "a_<wbr>&lt;b&gt;_<wbr>\\u202e"


def test_a_packaged_sweep_shows_its_missing_trials(tmp_path, monkeypatch):
    """Of a sweep by name with two finished trials the page lists the others as missing."""
    from dcnlab.ablations.sweeps.sweep_file import read
    from dcnlab.ablations.sweeps.trial import trials_of

    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    name = "table1_deeplab_camvid_small"
    found = trials_of(read(name), ["data.root=data"])
    for trial in found[:2]:
        write_run(trial.folder, 50.0, trial.parameters)
        (trial.folder / "config.yaml").write_text(to_yaml(trial.config))
    [group] = gather.report(Path("runs")).groups
    assert [(row["seeds"], row["seeds_wanted"]) for row in group.table.rows] == [(2, 3), (0, 3)]
    assert group.command == f"dcnlab sweep {name} data.root=data --out runs"
    text = page.write(Path("runs")).read_text()
    assert "0 of 3 (!)" in text
    assert "missing" in text


def test_the_command_in_the_page_repeats_the_run(tiny, monkeypatch):
    """The saved config holds overrides and parameters, so the command needs only a new id."""
    Path("args.json").write_text('{"model.deform_layers": 2, "seed": 5}')
    monkeypatch.setattr("sys.argv", ["dcnlab", "fit", tiny, "args.json", "id=first", "logger.wandb=false"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code is None
    read = Reader(page.write(Path("runs")).read_text())
    [command] = {word for word in read.words if word.startswith("dcnlab fit")}
    assert command == "dcnlab fit runs/tiny/first/config.yaml id=null"
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code is None
    [again] = [folder for folder in run_search.discover([Path("runs")]) if folder.name != "first"]
    first, second = (RunFolder(folder).read_results() for folder in (Path("runs/tiny/first"), again))
    assert (first["metrics"], first["parameters"], first["seed"]) == (
        second["metrics"], second["parameters"], second["seed"],
    )  # fmt: skip
    assert first["parameters"] == {"model.deform_layers": 2, "seed": 5}


def test_report_prints_its_path_and_refuses_empty_folders(runs_folder):
    """A missing folder and one without runs give one line and no page."""
    made = dcnlab("report", "runs", "--out", "pages/all.html")
    assert (made.returncode, made.stdout) == (0, "pages/all.html\n")
    assert Path("pages/all.html").read_text().endswith("</html>\n")
    os.mkdir("empty")
    for folder, says in (("rusn", "rusn: no such folder"), ("empty", "empty: no runs in it")):
        refused = dcnlab("report", folder)
        assert (refused.returncode, refused.stderr) == (2, f"dcnlab: {says}\n")
    assert not Path("empty/report.html").exists()


def test_runs_of_different_commits_are_not_averaged(tmp_path, monkeypatch):
    """Each commit has its own row unless --any-code joins them."""
    monkeypatch.chdir(tmp_path)
    for seed, git in enumerate(("one", "two")):
        write_run(f"runs/a/{seed}", 50.0 + seed, {"seed": seed}, seed=seed, environment={"git": git})
    [apart], [joined] = (gather.report(Path("runs"), any_code).groups for any_code in (False, True))
    assert [row.label for row in apart.rows] == ["code one", "code two"]
    assert [row.figures["top1"] for row in joined.rows] == [50.5]
    assert "of the same code to compare it with" in page.write(Path("runs")).read_text()


def test_unreadable_results_are_named_and_the_rest_is_shown(runs_folder):
    """A broken results.json is named as not JSON, and the table shows the other runs."""
    (runs_folder / "layers" / "l0s0" / "results.json").write_text("{")
    text = page.write(runs_folder).read_text()
    assert "runs/layers/l0s0/results.json: not JSON" in text
    assert "75.50 ± 0.50" in text


def test_a_folder_with_only_unreadable_runs_is_refused(tmp_path, monkeypatch):
    """The error names the broken results.json instead of writing an empty page."""
    monkeypatch.chdir(tmp_path)
    (write_run("runs/a/b", 50.0) / "results.json").write_text("{")
    with pytest.raises(ConfigError, match=r"runs: no runs in it that can be read; left out: runs/a/b/results\.json"):
        gather.report(Path("runs"))
