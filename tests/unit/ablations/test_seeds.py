"""The paired test over seeds agrees with scipy's and with cases worked out by hand."""

import numpy as np
import pytest

from dcnlab.ablations.tables import statistics


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0, 3.0], 0.25),  # all of one sign: 2 of 8
        ([1.0, -2.0], 1.0),  # sums 3, -1, 1, -3: all are at least 1 from zero
        ([3.0, 1.0, -1.0], 0.75),  # sums 5, 3, 3, 1 and their opposites: 6 of 8 are at least 3
        ([0.0, 0.0], 1.0),
    ],
)
def test_p_is_the_share_of_sign_assignments_that_reach_as_far(differences, p):
    assert statistics.sign_flip(differences) == p


@pytest.mark.parametrize("count", [4, 7, 10])
def test_p_is_scipys_exact_permutation_p(count):
    stats = pytest.importorskip("scipy.stats", reason="no scipy")
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    test = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip(list(differences)) == pytest.approx(test.pvalue, abs=1e-12)


def test_equal_sums_count_though_floats_round():
    assert statistics.sign_flip([0.1, 0.2, 0.3, -0.3]) == statistics.sign_flip([1.0, 2.0, 3.0, -3.0])


def test_p_of_many_seeds_is_drawn_and_near_the_exact_one():
    differences = list(np.random.default_rng(1).normal(0.5, 1, 24))
    drawn = statistics.sign_flip(differences)
    stats = pytest.importorskip("scipy.stats", reason="no scipy")
    assert drawn == statistics.sign_flip(differences)
    # Near the t test's, as it is for so many and normal ones.
    assert drawn == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_no_test_of_five_seeds_can_be_significant_and_of_six_it_can():
    assert [statistics.can_be_significant(pairs) for pairs in (0, 3, 5, 6)] == [False, False, False, True]


def test_pairs_are_the_seeds_that_both_rows_have():
    found = statistics.spread({0: 5.0, 1: 7.0, 4: 9.0}, {1: 4.0, 4: 5.0, 5: 6.0})
    assert (found.mean, found.std, found.difference) == (7.0, 2.0, 2.0)
    assert found.differences == {1: 3.0, 4: 4.0}
    assert found.p == 0.5
