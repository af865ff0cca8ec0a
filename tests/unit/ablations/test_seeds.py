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
def test_p_is_the_fraction_of_extreme_sign_assignments(differences, p):
    """Worked by hand: of all sign patterns, those whose sum is at least as far from zero."""
    assert statistics.sign_flip(differences) == p


@pytest.mark.parametrize("count", [4, 7, 10])
def test_p_is_scipys_exact_permutation_p(count):
    """scipy.stats.permutation_test over all sign patterns is the oracle."""
    stats = pytest.importorskip("scipy.stats", reason="no scipy")
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    test = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip(list(differences)) == pytest.approx(test.pvalue, abs=1e-12)


def test_equal_sums_count_despite_float_rounding():
    """0.1 + 0.2 - 0.3 is not exactly 0; the p-value must be that of 1 + 2 - 3."""
    assert statistics.sign_flip([0.1, 0.2, 0.3, -0.3]) == statistics.sign_flip([1.0, 2.0, 3.0, -3.0])


def test_p_of_24_seeds_is_sampled_and_repeatable():
    """It is near the t-test's p-value, which holds for normal differences."""
    differences = list(np.random.default_rng(1).normal(0.5, 1, 24))
    drawn = statistics.sign_flip(differences)
    stats = pytest.importorskip("scipy.stats", reason="no scipy")
    assert drawn == statistics.sign_flip(differences)
    # Near the t test's, as it is for so many and normal ones.
    assert drawn == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_significance_needs_at_least_six_seeds():
    """A sign-flip test of five pairs cannot fall below p = 0.05; one of six can."""
    assert [statistics.can_be_significant(pairs) for pairs in (0, 3, 5, 6)] == [False, False, False, True]


def test_differences_use_only_the_seeds_of_both_rows():
    """By hand: seeds 1 and 4 are in both rows, and mean, difference and p use them."""
    found = statistics.spread({0: 5.0, 1: 7.0, 4: 9.0}, {1: 4.0, 4: 5.0, 5: 6.0})
    assert (found.mean, found.std, found.difference) == (7.0, 2.0, 2.0)
    assert found.differences == {1: 3.0, 4: 4.0}
    assert found.p == 0.5
