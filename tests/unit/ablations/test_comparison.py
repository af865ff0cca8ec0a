"""Rows are compared over seeds and test images, and folds are pooled, as worked out by hand."""

import numpy as np
import pytest

from dcnlab.ablations.tables import bootstrap, build_table, collect
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.comparison import Options
from dcnlab.ablations.tables.run_record import Record
from dcnlab.config import identity
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import image_records
from dcnlab.metrics.classification_record import ClassificationRecord

IMAGES = 30


@pytest.fixture
def made(tmp_path):
    """Makes a finished run of so many deformable layers, with the images that it classifies correctly."""

    def make(layers, seed, right, fold=None, start=0, keep=True, images=None, **settings):
        folder = tmp_path / "some" / f"{layers}-{seed}-{str(fold).replace('/', 'of')}"
        folder.mkdir(parents=True)
        correct = np.array([right], dtype=bool)
        names = images or tuple(f"image {number}" for number in range(start, start + correct.shape[1]))
        if keep:
            image_records.write(folder / "test_images.npz", ClassificationRecord(names, ("top1",), correct))
        results = {
            "status": "finished",
            "seed": seed,
            "parameters": {"model.deform_layers": layers, "seed": seed},
            "metrics": {"top1": float(100 * correct.mean())},
            "model": {"params": 1, "macs": 1},
            "cost": {"train_seconds": 1.0},
            "environment": {"git": "abc"},
        }
        values = {**identity.settings(Config()), **settings, "model.deform_layers": layers, "seed": seed}
        return Record(folder, {**values, "data.fold": fold}, results, 0.0)

    return make


@pytest.fixture
def records(made):
    """Two rows of four seeds: chance decides which of 30 images each run gets right."""
    generator = np.random.default_rng(3)
    return [
        made(layers, seed, generator.random(IMAGES) < 0.5 + layers / 10 + seed / 20)
        for layers in (0, 3)
        for seed in range(4)
    ]


def table(records, **options):
    return build_table.summarise("some", collect.of_name("some", records), options=Options(**options))


def correct(record):
    return record.images.correct[0].astype(float)


def test_the_interval_draws_seeds_and_images(records):
    """Each draw: the same images for all runs, then the same seeds for both rows; percentiles of 2000 means."""
    row = table(records).rows[1]
    counts, seeds = bootstrap.image_counts(IMAGES)[1:], bootstrap.seed_counts(4)
    by_seed = [correct(ours) - correct(base) for base, ours in zip(records[:4], records[4:], strict=True)]
    means = [
        sum(of_seed * 100 * (drawn @ pair) / drawn.sum() for of_seed, pair in zip(kept, by_seed, strict=True)) / 4
        for drawn, kept in zip(counts, seeds, strict=True)
    ]
    assert (row["top1_low"], row["top1_high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert row["top1_difference"] == pytest.approx(100 * np.mean(by_seed))


def test_the_order_of_test_images_does_not_matter(records):
    """A run that tested the same images in another order gives the same interval."""
    expected = table(records).rows[1]
    last, order = records[7], np.random.default_rng(0).permutation(IMAGES)
    shuffled = ClassificationRecord(
        tuple(last.images.images[at] for at in order), ("top1",), last.images.correct[:, order]
    )
    image_records.write(last.folder / "test_images.npz", shuffled)
    unread = [Record(record.folder, record.settings, record.results, 0.0) for record in records]
    found = table(unread).rows[1]
    assert unread[7].images.images == shuffled.images
    assert (found["top1_low"], found["top1_high"]) == pytest.approx((expected["top1_low"], expected["top1_high"]))


def test_blocks_of_frames_widen_the_interval(made):
    """Where ten consecutive frames are right or wrong together, blocks of ten show the true noise."""
    generator = np.random.default_rng(5)
    records = []
    for layers in (0, 3):
        frames = np.repeat(generator.random(12) < 0.6, 10)
        records += [made(layers, seed, frames) for seed in range(3)]
    widths = []
    for block in (1, 10):
        row = table(records, block=block).rows[1]
        widths.append(row["top1_high"] - row["top1_low"])
    assert widths[1] > 2 * widths[0]


def test_a_block_as_long_as_the_test_set_is_refused(records):
    """One block leaves nothing to draw; the line names the option and the number of images."""
    with pytest.raises(ConfigError, match=r"--block is 30; .* 30 images"):
        table(records, block=30)


@pytest.mark.parametrize(
    ("base", "ours", "conclusion"),
    [
        ((0, 1, 2, 1), (12, 14, 15, 13), "better"),
        ((12, 14, 15, 13), (0, 1, 2, 1), "worse"),
        ((12, 14, 15, 13), (13, 13, 16, 12), "no conclusion"),
        ((0,), (20,), "no conclusion"),  # one seed
    ],
)
def test_a_conclusion_needs_intervals_without_zero(made, base, ours, conclusion):
    """Better and worse are said only where both intervals are on one side of zero."""
    records = [
        made(layers, seed, np.arange(IMAGES) < right)
        for layers, rights in ((0, base), (3, ours))
        for seed, right in enumerate(rights)
    ]
    assert table(records).rows[1]["top1_conclusion"] == conclusion


def test_one_seed_has_no_interval_and_a_note(made):
    """The table says so; figures of an interval are missing."""
    found = table([made(0, 0, np.arange(IMAGES) < 5), made(3, 0, np.arange(IMAGES) < 25)])
    row = found.rows[1]
    ends = [row[f"top1_{kind}"] for kind in ("low", "high", "t_low", "t_high", "p", "p_holm")]
    assert ends == [None] * 6
    assert found.notes == ["a difference of one seed has no interval over seeds, and allows no conclusion"]
    assert tables.cells(found)[1][1][2] == "+66.67"


def test_runs_without_test_images_have_intervals_over_seeds(made):
    """Old runs: three seeds that differ by 10, 20 and 30 points; a note says what the interval lacks."""
    for_seeds = [(0, 10), (1, 20), (2, 30)]
    records = [made(0, seed, np.arange(100) < 40, keep=False) for seed, _ in for_seeds]
    records += [made(3, seed, np.arange(100) < 40 + gain, keep=seed > 0) for seed, gain in for_seeds]
    found = table(records)
    assert (found.rows[1]["top1_low"], found.rows[1]["top1_high"]) == (10.0, 30.0)
    assert "1 of 1 intervals are over seeds alone, not over test images: runs have no test_images.npz" in found.notes


def test_test_images_of_another_test_are_not_used(records):
    """A score that does not follow from the file names the run, and the interval is over seeds alone."""
    records[5].results["metrics"]["top1"] += 1.0
    found = table(records)
    [note] = [note for note in found.notes if "over seeds alone" in note]
    assert note.endswith(f"{records[5].folder}/test_images.npz is not of the test in results.json; evaluate it again")


def test_damaged_and_other_test_images_are_named(records, made):
    """A broken file gives a note with its path; runs on other images give another."""
    (records[0].folder / "test_images.npz").write_bytes(b"PK")
    [note] = [note for note in table(records).notes if "over seeds alone" in note]
    assert str(records[0].folder / "test_images.npz") in note
    others = [made(0, seed, np.arange(IMAGES) < 10, start=100 * seed) for seed in (8, 9)]
    others += [made(3, seed, np.arange(IMAGES) < 12, start=100 * seed) for seed in (8, 9)]
    [note] = [note for note in table(others).notes if "over seeds alone" in note]
    assert note.endswith("the runs were tested on different images")


def test_files_are_read_only_where_a_row_needs_them(records, monkeypatch):
    """A table without a base row to compare with opens no test_images.npz."""
    monkeypatch.setattr(image_records, "read", lambda path: pytest.fail(f"{path} is read"))
    assert table(records[:4]).rows[0]["top1_low"] is None


def test_power_states_the_seeds_for_one_point(made):
    """Paired differences 0, 2, 4 have a std of 2: an effect of one half needs 34 seeds."""
    records = [made(0, seed, np.arange(100) < 50) for seed in range(3)]
    records += [made(3, seed, np.arange(100) < 50 + 2 * seed) for seed in range(3)]
    found = table(records, power=True)
    assert found.rows[1]["top1_seeds_for_one_point"] == 34
    header, lines = tables.cells(found)
    assert lines[1][header.index("seeds for 1 point")] == "34"
    assert "top1_seeds_for_one_point" not in table(records).rows[1]


def folds(made, layers, seed, rights, count=3, skip=(), **options):
    """The runs of one seed: each fold has ten images, of which so many are right."""
    return [
        made(layers, seed, np.arange(10) < right, f"{number}/{count}", start=10 * number, **options)
        for number, right in enumerate(rights, 1)
        if number not in skip
    ]


def test_folds_of_a_seed_are_one_test_set(made):
    """Ten images a fold, 5 + 7 + 9 right of 30; the seeds are two, not six."""
    records = [*folds(made, 0, 0, (5, 7, 9)), *folds(made, 0, 1, (4, 4, 4))]
    records += [*folds(made, 3, 0, (6, 8, 10)), *folds(made, 3, 1, (6, 6, 6))]
    base, ours = table(records).rows
    assert base["top1_values"] == {"0": pytest.approx(70.0), "1": pytest.approx(40.0)}
    assert ours["top1_differences"] == {"0": pytest.approx(10.0), "1": pytest.approx(20.0)}
    assert (base["seeds"], base["seeds_wanted"], len(base["runs"])) == (2, 2, 6)
    assert ours["top1_low"] is not None


def test_a_seed_without_all_folds_is_left_out(made):
    """The note names row, seed and folds; the other seed counts."""
    records = [*folds(made, 0, 0, (5, 7, 9)), *folds(made, 0, 1, (4, 4, 4), skip=(2, 3))]
    found = table(records)
    assert found.rows[0]["top1_values"] == {"0": pytest.approx(70.0)}
    assert (found.rows[0]["seeds"], found.rows[0]["seeds_wanted"]) == (1, 2)
    assert found.notes == ["deform_layers 0, seed 1 is left out: it lacks folds 2/3 and 3/3"]


def test_folds_that_cannot_be_pooled_are_named(made):
    """Folds without test images, and folds that share an image, leave their seed out."""
    records = [*folds(made, 0, 0, (5, 7, 9), keep=False), *folds(made, 0, 1, (4, 4, 4))]
    records += [made(0, 2, np.arange(10) < 3, f"{number}/2", start=number) for number in (1, 2)]
    found = table([record for record in records if record.seed < 2])
    [note] = found.notes
    assert note.endswith("has no test_images.npz, and folds are scored from it")
    [note] = table(records[-2:]).notes
    assert note == "deform_layers 0, seed 2 is left out: test image image 2 is in two folds; each must be in one"


def test_folds_and_whole_test_sets_are_not_mixed(made):
    """Runs of three folds, of five folds and of the whole test set cannot share a table."""
    whole = made(0, 0, np.arange(10) < 5)
    for other in (made(0, 1, np.arange(10) < 5, "1/3"), made(0, 2, np.arange(10) < 5, "1/5")):
        with pytest.raises(ConfigError, match=r"data\.fold is"):
            table([whole, other])


def test_a_swept_fold_is_no_column(made):
    """data.fold among a sweep's parameters repeats a row as a seed does."""
    records = folds(made, 0, 0, (5, 7, 9))
    for record in records:
        record.results["parameters"]["data.fold"] = record.settings["data.fold"]
    found = table(records)
    assert (found.swept, [row["top1"] for row in found.rows]) == (["model.deform_layers"], [pytest.approx(70.0)])
