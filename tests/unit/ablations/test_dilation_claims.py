"""Table 2's claims on boxes made by hand: slopes, intervals, the null of other images, depth and background."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import dcnlab

from dcnlab.ablations.numbers import with_interval
from dcnlab.ablations.tables import bootstrap, student
from dcnlab.ablations.tables.box_statistics import interval
from dcnlab.ablations.tables.dilation_bins import panels
from dcnlab.ablations.tables.dilation_claims import notes, rows
from dcnlab.ablations.tables.dilation_runs import read as read_runs
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.box_dilation import BoxDilation, other_images, read, write


def boxes(image, area, real, moved=None, plain=None, background=1.0):
    """Boxes with some layers' dilations."""
    real = np.atleast_2d(real)
    moved = np.full_like(real, 2.0) if moved is None else np.atleast_2d(moved)
    names = np.array([f"layer{number}" for number in range(len(real))])
    plain = np.ones(len(real)) if plain is None else np.array(plain, dtype=float)
    image = np.asarray(image)
    outside = np.full((len(real), image.max() + 1), background)
    return BoxDilation(names, plain, image, np.asarray(area, float), real, moved, outside)


def of(table, claim):
    return next(row for row in table if row["claim"] == claim)


def written(folder, made, *lines):
    """A run folder with a config and boxes."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("\n".join(["trainer: {max_steps: 1}", *lines]) + "\n")
    write(folder / "dilation_boxes.npz", made)
    return folder


def measured(count=3, slope=0.05):
    """Runs of some seeds, whose two layers grow with the box's size in their images and not in others."""
    generator = np.random.default_rng(6)
    image, area = np.repeat(np.arange(40), 3), 2 ** generator.uniform(8, 17, 120)
    runs = []
    for _ in range(count):
        real = slope * np.log2(area) + generator.normal(scale=0.1, size=(2, 120)) + [[1.0], [1.3]]
        runs.append(boxes(image, area, real, generator.normal(1.5, 0.1, (2, 120))))
    return runs


def test_slope_equals_numpys_in_units_of_the_layer():
    """The estimate is polyfit's slope divided by the layer's dilation; an exact line has no width."""
    generator = np.random.default_rng(3)
    image, area = np.repeat(np.arange(20), 3), 2 ** generator.uniform(6, 14, 60)
    noisy = 0.5 * np.log2(area) + generator.normal(size=60)
    expected = np.polyfit(np.log2(area), noisy, 1)[0] / 2
    assert of(rows([boxes(image, area, noisy, plain=[2])]), "size")["estimate"] == pytest.approx(expected)
    exact = rows([boxes(image, area, -0.5 * np.log2(area))] * 3)
    assert (of(exact, "size")["low"], of(exact, "size")["high"]) == pytest.approx((-0.5, -0.5))
    assert of(exact, "excess")["verdict"] == "against"
    assert of(exact, "size")["verdict"] is of(exact, "null")["verdict"] is of(exact, "size")["p"] is None


def test_null_absorbs_a_slope_that_place_alone_gives():
    """Dilation that depends on place is the same on other images: size is above zero, excess has no conclusion."""
    generator = np.random.default_rng(4)
    image, area = np.repeat(np.arange(60), 4), 2 ** generator.uniform(6, 14, 240)
    place = 0.3 * np.log2(area)  # larger boxes lie nearer to the centre
    runs = [boxes(image, area, *(place + generator.normal(scale=0.3, size=240) for _ in range(2))) for _ in range(3)]
    table = rows(runs)
    assert of(table, "size")["low"] > 0
    assert of(table, "null")["estimate"] == pytest.approx(0.3, abs=0.05)
    assert of(table, "excess")["verdict"] == "no conclusion"


def test_clustered_interval_covers_where_an_iid_one_does_not():
    """Boxes of one image share size and error; the interval covers zero in at least 85% of simulated sets."""
    generator = np.random.default_rng(5)
    clustered = iid = 0
    for _ in range(60):
        image = np.repeat(np.arange(40), 8)
        x = np.repeat(generator.uniform(6, 14, 40), 8)
        y = np.repeat(generator.normal(size=40), 8) + generator.normal(scale=0.1, size=320)
        row = of(rows([boxes(image, 2**x, y)]), "size")
        clustered += row["low"] <= 0 <= row["high"]
        slope, covariance = np.polyfit(x, y, 1, cov=True)
        iid += abs(slope[0]) <= 1.96 * covariance[0, 0] ** 0.5
    assert clustered >= 51
    assert iid < 45


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_interval_covers_zero_over_seeds_and_images(seeds):
    """Of 300 simulated sets with effects of seeds and of images, at least 93% of the 95% intervals hold zero."""
    generator = np.random.default_rng(seeds)
    counts = bootstrap.image_counts(40).T / 40
    covered = bootstrap_alone = 0
    for _ in range(300):
        image = generator.normal(size=40) * 0.6 * 40**0.5  # 0.6 in their mean
        drawn = generator.normal(size=seeds)[:, None] + image @ counts
        mean = interval(drawn)
        covered += mean.low <= 0 <= mean.high
        low, high = bootstrap.interval(drawn[:, 1:])
        bootstrap_alone += low <= 0 <= high
    assert covered >= 0.93 * 300
    assert seeds > 2 or bootstrap_alone < 0.9 * 300


def test_p_is_the_larger_of_bootstrap_and_student():
    """Three seeds of 1, 2, 3: t is 2 / (1 / sqrt 3) with p 0.0742 at two degrees of freedom, by tables of t."""
    drawn = np.repeat([[1.0], [2.0], [3.0]], 1 + bootstrap.DRAWS, axis=1)
    mean = interval(drawn)
    assert mean.p == pytest.approx(0.0742, abs=1e-4) == student.p_of_zero([1, 2, 3])
    assert (mean.low, mean.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert student.p_of_zero([1, 1]) == 0
    assert student.p_of_zero([0, 0]) == 1


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_allow_no_verdict(seeds):
    """The slope is the same as over three seeds, which conclude `for`; a note names the missing seeds."""
    few = rows(measured(seeds))
    assert {row["verdict"] for row in few} == {None, "no conclusion"}
    assert any("with fewer than 3 seeds" in note for note in notes(few))
    enough = rows(measured(3))
    assert of(enough, "excess")["verdict"] == "for"
    assert not any("with fewer" in note for note in notes(enough))


def test_p_is_corrected_over_all_rows_with_a_verdict():
    """Holm's smallest corrected p is the smallest p times the rows with a p: two excess, one depth, four background."""
    judged = [row for row in rows(measured()) if row["p"] is not None]
    assert [row["claim"] for row in judged] == [
        *["excess"] * 2, "depth", *["background - medium"] * 2, *["large - background"] * 2
    ]  # fmt: skip
    smallest = min(judged, key=lambda row: row["p"])
    assert smallest["p_holm"] == pytest.approx(7 * smallest["p"])


def test_depth_is_the_mean_difference_of_successive_layers():
    """In units of each layer's dilation, 3/1 to 4/2 is minus one; two seeds are averaged, with Student's interval."""
    image, area = np.arange(8), 2.0 ** np.arange(6, 14)
    runs = [boxes(image, area, [np.full(8, 3 + shift), np.full(8, 4.0)], plain=[1, 2]) for shift in (0, 0.5)]
    row = of(rows(runs), "depth")
    assert (row["layer"], row["estimate"]) == ("layer1", pytest.approx(-1.25))
    assert (row["low"], row["high"]) == pytest.approx((-1.25 - 12.706 / 4, -1.25 + 12.706 / 4), abs=1e-3)


def test_background_is_compared_within_its_image():
    """Hand-worked: background 2 of dilation 2; medium boxes of 1.5 and large ones of 4 give +0.25 and +1."""
    image = np.tile(np.arange(10), 3)
    area = np.repeat([95.0**2, 96.0**2, 224.5**2], 10)
    made = boxes(image, area, np.repeat([9.0, 1.5, 4.0], 10), plain=[2], background=2.0)
    table = rows([made])
    assert of(table, "background - medium")["estimate"] == pytest.approx(0.25)
    assert of(table, "large - background")["estimate"] == pytest.approx(1)
    fewer = boxes(image % 9, area, np.repeat([9.0, 1.5, 4.0], 10))
    assert not any("background" in row["claim"] for row in rows([fewer]))
    assert any(note.startswith("no row on background: fewer than 10 images hold") for note in notes(rows([fewer])))


def test_bins_of_a_chart_hold_means_and_their_null():
    """Of 40 boxes, twenty of side 8 and twenty of 32 are two bins: real 2 and 6 of dilation 2, null 4, background 3."""
    image, area = np.tile(np.arange(20), 2), np.repeat([64.0, 1024.0], 20)
    real = np.repeat([2.0, 6.0], 20)
    (panel,) = panels([boxes(image, area, real, np.full(40, 4.0), plain=[2], background=3.0)])
    assert panel.sides == pytest.approx([8, 32])
    assert panel.mean == panel.low == panel.high == pytest.approx([1, 3])
    assert panel.null == pytest.approx([2, 2])
    assert (panel.layer, panel.background) == ("layer0", pytest.approx(1.5))


def test_runs_of_other_boxes_and_equal_areas_are_refused():
    """Each gives one line."""
    image, area = np.arange(8), 2.0 ** np.arange(6, 14)
    with pytest.raises(ConfigError, match="the runs differ in layers"):
        rows([boxes(image, area, area), boxes(image, area + 1, area)])
    with pytest.raises(ConfigError, match="layer0 has too few boxes"):
        rows([boxes(image, np.ones(8), area)])


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    """The line names the key, or the seed that two runs share; a run without boxes gets the command to measure it."""
    made = measured(1)[0]
    first = written(tmp_path / "first", made, "seed: 1")
    second = written(tmp_path / "second", made, "seed: 2", "model: {dilation: 4}")
    third = written(tmp_path / "third", made, "seed: 1", "name: other")
    with pytest.raises(
        ConfigError, match=r"second: model\.dilation is None in .*first and 4 in .*second; the runs must"
    ):
        read_runs([first, second])
    with pytest.raises(ConfigError, match=r"first is given twice"):
        read_runs([first, tmp_path / "third" / ".." / "first"])
    with pytest.raises(ConfigError, match=r"third has seed 1, as .*first; the runs must be of different seeds"):
        read_runs([first, third])
    (first / "dilation_boxes.npz").unlink()
    with pytest.raises(
        ConfigError, match=r"first has no dilation_boxes\.npz; measure it with: dcnlab dilation .*first"
    ):
        read_runs([first])


def test_claims_come_from_the_files_of_two_runs(tmp_path, monkeypatch):
    """The table, the notes and the chart are there; options that --claims would ignore give one line, status 2."""
    monkeypatch.chdir(tmp_path)
    for seed, made in enumerate(measured(2)):
        written(Path(f"run{seed}"), made, f"seed: {seed}")
    done = dcnlab("dilation", "run0", "--claims", "--with", "run1", "--figure", "out/chart.png", "--format", "json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert of(table, "size")["estimate"] == pytest.approx(0.05, abs=0.01)
    assert of(table, "excess")["verdict"] == "no conclusion"
    assert "Student's t over 2 seeds" in done.stderr
    assert Path("out/chart.png").read_bytes().startswith(b"\x89PNG")
    for words, says in (
        (["--claims", "seed=3"], "--claims tests what was measured; it does not take an override, here seed=3"),
        (["--claims", "--sides", "9,20"], "--claims tests what was measured; it does not take --sides, here 9,20"),
        (["--with", "run1"], "--claims is missing; only it takes --with, here run1"),
        (["--claims", "--figure", "chart.gif"], "--figure chart.gif must end in one of .png, .pdf, .svg"),
    ):
        done = dcnlab("dilation", "run0", *words)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"dcnlab: {says}\n")


def test_small_numbers_keep_two_digits_of_their_interval():
    """At least two digits are behind the point; below a millionth, powers of ten."""
    assert with_interval(0.00123, 0.0001, 0.0024) == "+0.0012 [+0.0001, +0.0024]"
    assert with_interval(-12.345, -20, -4) == "-12.35 [-20.00, -4.00]"
    assert with_interval(2e-8, 1e-8, 3e-8) == "+2.00e-08 [+1.00e-08, +3.00e-08]"
    assert with_interval(0.0, 0.0, 0.0) == "+0.00 [+0.00, +0.00]"


def test_no_image_keeps_its_boxes_and_all_get_some():
    """Each of at most 20 lines is a permutation without a fixed point; no two lines agree anywhere."""
    for count in (1, 2, 3, 50):
        lines = other_images(count)
        assert lines.shape == (min(20, count - 1), count)
        for number, line in enumerate(lines):
            assert sorted(line) == list(range(count))
            assert all((line != other).all() for other in (np.arange(count), *lines[:number]))
    assert (other_images(50) == other_images(50)).all()
    assert (other_images(50) != other_images(50, seed=1)).any()


def test_file_of_boxes_is_read_as_written(tmp_path):
    """Every array comes back; a missing file is None."""
    made = boxes([0, 1], [4, 9], [1.0, float("nan")])
    assert read(tmp_path / "dilation_boxes.npz") is None
    write(tmp_path / "dilation_boxes.npz", made)
    for name, value in vars(read(tmp_path / "dilation_boxes.npz")).items():
        np.testing.assert_array_equal(value, getattr(made, name))
