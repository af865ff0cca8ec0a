"""Table 2's claims on boxes made by hand: slopes, clustered intervals, the null of other images, and depth."""

import numpy as np
import pytest

from dcnlab.ablations.tables.dilation_claims import rows
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.box_dilation import BoxDilation, other_images, read, write


def boxes(image, area, real, moved=None, plain=None):
    """Boxes with some layers' dilations."""
    real = np.atleast_2d(real)
    moved = np.full_like(real, 2.0) if moved is None else np.atleast_2d(moved)
    names = np.array([f"layer{number}" for number in range(len(real))])
    plain = np.ones(len(real)) if plain is None else np.array(plain, dtype=float)
    image = np.asarray(image)
    return BoxDilation(names, plain, image, np.asarray(area, float), real, moved, np.ones((len(real), image.max() + 1)))


def of(table, claim):
    return next(row for row in table if row["claim"] == claim)


def test_slope_equals_numpys_in_units_of_the_layer():
    """The estimate is polyfit's slope divided by the layer's dilation; an exact line has no width."""
    generator = np.random.default_rng(3)
    image, area = np.repeat(np.arange(20), 3), 2 ** generator.uniform(6, 14, 60)
    noisy = 0.5 * np.log2(area) + generator.normal(size=60)
    expected = np.polyfit(np.log2(area), noisy, 1)[0] / 2
    assert of(rows([boxes(image, area, noisy, plain=[2])]), "size")["estimate"] == pytest.approx(expected)
    exact = of(rows([boxes(image, area, -0.5 * np.log2(area))]), "size")
    assert (exact["low"], exact["high"]) == pytest.approx((-0.5, -0.5))
    assert exact["verdict"] == "against"


def test_null_absorbs_a_slope_that_place_alone_gives():
    """Dilation that depends on place is the same on other images: size is for, excess has no conclusion."""
    generator = np.random.default_rng(4)
    image, area = np.repeat(np.arange(60), 4), 2 ** generator.uniform(6, 14, 240)
    place = 0.3 * np.log2(area)  # larger boxes lie nearer to the centre
    real, moved = (place + generator.normal(scale=0.3, size=240) for _ in range(2))
    table = rows([boxes(image, area, real, moved)])
    assert of(table, "size")["verdict"] == "for"
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


def test_depth_is_the_mean_difference_of_successive_layers():
    """In units of each layer's dilation, 3/1 to 4/2 is minus one, hence against; two seeds are averaged."""
    image, area = np.arange(8), 2.0 ** np.arange(6, 14)
    runs = [boxes(image, area, [np.full(8, 3 + shift), np.full(8, 4.0)], plain=[1, 2]) for shift in (0, 0.5)]
    row = of(rows(runs), "depth")
    assert (row["layer"], row["estimate"], row["verdict"]) == ("layer1", pytest.approx(-1.25), "against")
    assert (row["low"], row["high"]) == pytest.approx((-1.5, -1.0))


def test_runs_of_other_boxes_and_equal_areas_are_refused():
    """Each gives one line."""
    image, area = np.arange(8), 2.0 ** np.arange(6, 14)
    with pytest.raises(ConfigError, match="the runs differ in layers"):
        rows([boxes(image, area, area), boxes(image, area + 1, area)])
    with pytest.raises(ConfigError, match="layer0 has too few boxes"):
        rows([boxes(image, np.ones(8), area)])


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
    written = boxes([0, 1], [4, 9], [1.0, float("nan")])
    assert read(tmp_path / "dilation_boxes.npz") is None
    write(tmp_path / "dilation_boxes.npz", written)
    for name, value in vars(read(tmp_path / "dilation_boxes.npz")).items():
        np.testing.assert_array_equal(value, getattr(written, name))
