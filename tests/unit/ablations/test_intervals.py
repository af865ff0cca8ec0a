"""Intervals, Holm's correction and power agree with scipy's, with published values and with cases worked by hand."""

import itertools

import numpy as np
import pytest

from dcnlab.ablations.tables import bootstrap, statistics, student

DIFFERENCES = [1.5, -0.5, 2.0, 3.5, 0.25, 1.0, -1.25, 2.75]


@pytest.fixture
def stats():
    return pytest.importorskip("scipy.stats", reason="no scipy")


def test_holm_equals_a_hand_worked_example():
    """0.01 x 4, 0.015 x 3, then 0.03 x 2 and 0.04 x 1, which may not fall below the one before."""
    assert statistics.holm([0.04, 0.01, 0.03, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])


def test_holm_equals_rs_documented_adjustment():
    """R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") is 0.05, 0.08, 0.09, 0.09, 0.09."""
    assert statistics.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_holm_never_exceeds_one_and_keeps_a_single_p():
    """Corrected values are probabilities; one test needs no correction."""
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0]
    assert statistics.holm([0.2]) == [0.2]
    assert statistics.holm([]) == []


def test_t_interval_equals_scipys_paired_test(stats):
    """scipy.stats.ttest_rel's confidence interval is the oracle."""
    base = np.linspace(70, 75, len(DIFFERENCES))
    expected = stats.ttest_rel(base + DIFFERENCES, base).confidence_interval(0.95)
    assert student.interval(DIFFERENCES) == pytest.approx(tuple(expected), abs=1e-9)


def test_one_seed_has_no_interval():
    """Neither interval can be stated for fewer than two seeds."""
    assert student.interval([1.0]) is None
    assert bootstrap.interval(np.array([1.0])) is None


@pytest.mark.parametrize("df", [1, 2, 9, 199])
def test_noncentral_t_equals_scipys(stats, df):
    """Tails of the noncentral t and the central critical value, to nine digits."""
    assert student.critical(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)
    for shift in (0.0, 0.7, 4.0):
        assert student.tail(2.1, df, shift) == pytest.approx(stats.nct.sf(2.1, df, shift), abs=1e-9)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_equal_published_tables(effect, pairs):
    """Small, medium and large effects need 199, 34 and 15 pairs (G*Power, statsmodels' TTestPower)."""
    assert student.pairs_needed(1 / effect) == pairs
    assert student.power(pairs - 1, effect) < student.POWER <= student.power(pairs, effect)


def test_equal_differences_need_the_smallest_test():
    """Without any spread two pairs are enough."""
    assert student.pairs_needed(0.0) == 2


def test_seed_interval_equals_scipys_bootstrap(stats):
    """The paired percentile bootstrap over seeds alone, to what 2000 draws resolve."""
    drawn = stats.bootstrap((DIFFERENCES,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    expected = tuple(drawn.confidence_interval)
    found = bootstrap.interval(np.array(DIFFERENCES))
    assert found == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))


def test_three_seeds_give_the_range_of_their_differences():
    """By hand: of 27 draws one holds only the smallest and one only the largest, 3.7% each, more than 2.5%."""
    assert bootstrap.interval(np.array([5.0, 3.5, -1.0])) == (-1.0, 5.0)


def test_two_way_interval_equals_all_draws_enumerated():
    """Three seeds and four images: 27 x 256 equally likely draws of both, each scored by hand."""
    by_image = np.array([[3.0, 0.0, 1.0, 8.0], [1.0, 2.0, 5.0, 2.0], [0.0, 1.0, 9.0, 1.0]])
    means = [
        by_image[np.ix_(seeds, images)].mean()
        for seeds in itertools.product(range(3), repeat=3)
        for images in itertools.product(range(4), repeat=4)
    ]
    counts = bootstrap.image_counts(4)[1:]
    found = bootstrap.interval(by_image @ counts.T / 4)
    assert found == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.25)


def test_draws_without_a_score_are_left_out():
    """A draw of images in which no object is has no score; the other draws make the interval."""
    scores = np.broadcast_to(np.array([[1.0], [2.0]]), (2, bootstrap.DRAWS)).copy()
    whole = bootstrap.interval(scores)
    scores[:, ::3] = np.nan
    assert bootstrap.interval(scores) == whole == (1.0, 2.0)
    assert bootstrap.interval(np.full_like(scores, np.nan)) is None


def test_blocks_draw_consecutive_images_together():
    """Ten images in blocks of four: 0 to 3, 4 to 7, and 8 and 9; three blocks a draw."""
    counts = bootstrap.image_counts(10, 4)
    assert counts.shape == (bootstrap.DRAWS + 1, 10)
    assert (counts[0] == 1).all()
    for block in (slice(0, 4), slice(4, 8), slice(8, 10)):
        assert (counts[:, block] == counts[:, block][:, :1]).all()
    assert (counts[:, [0, 4, 8]].sum(axis=1) == 3).all()


def test_intervals_cover_the_truth_in_simulated_tables():
    """Ten seeds, 40 images, both with an effect: 95% of 300 intervals hold it, by either one with what it assumes."""
    generator = np.random.default_rng(0)
    counts = bootstrap.image_counts(40)[1:].T / 40
    covered = narrow = 0
    for _ in range(300):
        seeds, images = generator.normal(0, 1, (10, 1)), generator.normal(0, 2, (1, 40))
        by_image = seeds + images + generator.normal(0, 2, (10, 40))
        low, high = bootstrap.interval(by_image @ counts)
        covered += low <= 0 <= high
        low, high = bootstrap.interval(by_image.mean(axis=1))
        narrow += low <= 0 <= high
    assert 0.92 <= covered / 300 <= 0.98
    assert narrow / 300 < covered / 300 - 0.04  # seeds alone miss the noise of the test images
