"""Qualities of lists against loops over users and pairs, intervals against scipy and coverage."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from support.sequences import sequences_of

from rka_fast.data.split_rules import leave_one_out
from rka_fast.training import list_quality as quality
from rka_fast.training.metrics import LISTED, METRICS, gains


def literal(shown, ranks, histories, num_items):
    """By the definitions in words, over Python lists; histories are of the training."""
    trained = [item for history in histories for item in history]
    everything = [item for row in shown for item in row if item]
    exposure = [everything.count(item) for item in range(1, num_items + 1)]
    mean = sum(exposure) / num_items
    gini = sum(abs(a - b) for a in exposure for b in exposure) / (2 * num_items**2 * mean)
    having = {i: {u for u, h in enumerate(histories) if i in h} for i in range(1, num_items + 1)}
    novelty = [-math.log2(max(len(having[i]), 1) / len(histories)) for i in everything]
    similarities = []
    for row in shown:
        pairs = list(itertools.combinations([item for item in row if item], 2))
        cosines = [
            len(having[i] & having[j]) / math.sqrt(len(having[i]) * len(having[j]))
            if having[i] and having[j]
            else 0.0
            for i, j in pairs
        ]
        if pairs:
            similarities.append(sum(cosines) / len(pairs))
    hits: dict[int, list[float]] = {}
    for item, rank in ranks:
        hits.setdefault(item, []).append(float(rank <= 10))
    return {
        "coverage@10": len(set(everything)) / num_items,
        "gini@10": gini,
        "novelty@10": sum(novelty) / len(novelty),
        "popularity@10": sum(trained.count(i) for i in everything) / len(everything),
        "similarity@10": sum(similarities) / len(similarities),
        "hit@10-items": sum(sum(h) / len(h) for h in hits.values()) / len(hits),
    }


def test_qualities_equal_the_definitions():
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 16, rng.integers(3, 9)).tolist() for _ in range(30)]
    split = leave_one_out(sequences_of(histories, 20))
    shown = np.stack([rng.permutation(20)[:LISTED] for _ in range(30)])  # 0 is none
    ranks = rng.integers(1, 30, 30)
    targets = [history[-1] for history in histories]
    expected = literal(
        shown.tolist(), list(zip(targets, ranks, strict=True)), [h[:-2] for h in histories], 20
    )
    found = quality.list_qualities(shown, ranks, split)
    assert found.keys() == quality.QUALITIES.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name  # counts are float32
    by_item = [
        np.mean([g for t, g in zip(targets, gains(ranks, "ndcg@10"), strict=True) if t == item])
        for item in set(targets)
    ]
    assert found["ndcg@10-items"] == pytest.approx(np.mean(by_item))


def test_intervals_agree_with_scipy():
    """One target a user: scipy's percentile bootstrap, up to the noise of both's resamples."""
    rng = np.random.default_rng(1)
    ranks = rng.geometric(0.08, (2, 500))
    found = quality.intervals(ranks, np.arange(500))
    assert [list(of) for of in found.values()] == [list(METRICS)] * 2
    for row, bounds in zip(ranks, found.values(), strict=True):
        for name, (low, high) in bounds.items():
            values = gains(row, name)
            error = values.std() / math.sqrt(500)
            expected = scipy.stats.bootstrap(
                (values,), np.mean, method="percentile", n_resamples=4000, rng=rng
            ).confidence_interval
            # A 2.5 % quantile of 1,000 draws is off by .085 standard errors (of the mean).
            assert abs(low - expected.low) < 5 * 0.085 * error
            assert abs(high - expected.high) < 5 * 0.085 * error
            assert low < values.mean() < high


@pytest.mark.parametrize("many", [10**9, 0])  # resampled, and by the normal law
def test_users_bring_all_their_targets(monkeypatch, many):
    """A user's targets are all alike here: the interval is that of users, not of targets."""
    monkeypatch.setattr(quality, "MANY_USERS", many)
    rng = np.random.default_rng(2)
    of_user = np.where(rng.random(200) < 0.4, 1, 99)
    counts = rng.integers(1, 30, 200)
    ranks = np.repeat(of_user, counts)[None].repeat(2, 0)
    users = np.repeat(np.arange(200), counts)
    low, high = quality.intervals(ranks, users)["full"]["hit@10"]
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 200, 200)
        means.append((counts[drawn] * (of_user[drawn] == 1)).sum() / counts[drawn].sum())
    error = np.std(means)
    expected = np.quantile(means, (0.025, 0.975))
    assert np.abs(np.array([low, high]) - expected).max() < 0.5 * error
    naive = math.sqrt(0.4 * 0.6 / counts.sum())
    assert high - low > 3 * 2 * naive  # what single targets would claim


def test_nothing_shown():
    split = leave_one_out(sequences_of([[1, 2, 3], [3, 2, 1]], 3))
    none = np.zeros((2, LISTED), np.int64)
    found = quality.list_qualities(none, np.array([99, 99]), split)
    assert set(found.values()) == {0.0}
