"""Per-user values and their comparison, against hand-computed numbers and other tests."""

import math

import numpy as np
import pytest
import scipy.stats

from rka_fast.reproduction.significance import compare, user_ndcg
from rka_fast.training.metrics import rank_metrics


def test_user_values_are_means_over_seeds():
    values = user_ndcg([np.array([1, 3, 11]), np.array([7, 11, 12])])
    assert values == pytest.approx([(1 + 1 / 3) / 2, (1 / 2 + 0) / 2, 0])


def test_user_values_average_to_the_metric():
    seeds = np.random.default_rng(0).integers(1, 30, (3, 200))
    expected = np.mean([rank_metrics(ranks)["ndcg@10"] for ranks in seeds])
    assert user_ndcg(list(seeds)).mean() == pytest.approx(expected)


def test_difference_and_p_by_hand():
    # values 1, 1, 1/2, 0 and 1/2, 1, 0, 0: differences 1/2, 0, 1/2, 0
    found = compare([np.array([1, 1, 3, 99])], [np.array([3, 1, 99, 50])])
    assert (found.difference, found.users) == (0.25, 4)
    t = 0.25 / math.sqrt((4 * 0.25**2 / 3) / 4)  # mean / (sample deviation / sqrt(n))
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(t, df=3))
    assert (found.low, found.high) == (0.0, 0.5)  # all resamples have means from 0 to 1/2


def test_agrees_with_sign_flips_and_the_normal_interval():
    rng = np.random.default_rng(1)
    first = [rng.integers(1, 20, 400) for _ in range(3)]
    second = [np.maximum(1, ranks + rng.integers(-3, 5, 400)) for ranks in first]
    found = compare(first, second)
    difference = user_ndcg(first) - user_ndcg(second)
    assert found.difference == pytest.approx(difference.mean()) and found.difference > 0
    deviation = difference.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(difference.mean() - 1.96 * deviation, abs=0.15 * deviation)
    assert found.high == pytest.approx(difference.mean() + 1.96 * deviation, abs=0.15 * deviation)
    weak = difference - difference.mean() + 1.8 * deviation  # a p that resampling can resolve
    flips = scipy.stats.permutation_test(
        (weak,), np.mean, permutation_type="samples", n_resamples=9999, rng=rng
    ).pvalue
    assert scipy.stats.ttest_1samp(weak, 0.0).pvalue == pytest.approx(flips, abs=0.01)
    swapped = compare(second, first)
    assert (swapped.difference, swapped.p) == (-found.difference, pytest.approx(found.p))


def test_pairing_matters():
    ranks = np.random.default_rng(2).integers(1, 40, 500)
    better = np.maximum(1, ranks - (np.arange(500) % 5 == 0))
    found = compare([better], [ranks])
    unpaired = scipy.stats.ttest_ind(user_ndcg([better]), user_ndcg([ranks])).pvalue
    assert found.difference > 0 and found.low > 0 and found.p < 0.01 < unpaired


def test_where_nothing_varies():
    ranks = [np.array([1, 5, 30])]
    same = compare(ranks, ranks)
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    shifted = compare([np.ones(3)], [np.full(3, 3)])
    assert (shifted.difference, shifted.low, shifted.high, shifted.p) == (0.5, 0.5, 0.5, 0.0)
    assert compare([np.array([1])], [np.array([3])]).p == 1.0  # one user is no evidence
