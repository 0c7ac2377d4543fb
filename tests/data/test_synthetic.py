"""The synthetic log has the structure it claims: order and taste say more than popularity."""

import numpy as np
import pytest

from rka_fast.data.batches import sampled_candidates
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.filters import build_sequences
from rka_fast.data.split_rules import leave_one_out
from rka_fast.data.synthetic import synthetic


@pytest.fixture(scope="module")
def split():
    return leave_one_out(build_sequences(synthetic())[0])


def ndcg(split, score):
    """Sampled NDCG@10 of score(user, history, candidates), ties against the target."""
    gains = []
    for row, negatives in enumerate(sampled_candidates(split, "test")):
        candidates = np.concatenate((split.target_items("test")[[row]], negatives))
        scores = score(split.history(row, "test"), candidates)
        rank = (scores[1:] >= scores[0]).sum()
        gains.append(1 / np.log2(rank + 2) if rank < 10 else 0)
    return np.mean(gains)


def test_order_and_company_beat_popularity(split):
    popularity = split.train_counts()
    s = split.sequences
    follows = np.zeros((s.num_items + 1, s.num_items + 1))
    for user in range(s.num_users):
        train = s.items[s.indptr[user] : split.train_end[user]]
        np.add.at(follows, (train[:-1], train[1:]), 1)
    together = CoOccurrence.from_split(split).matrix.toarray() / np.sqrt(
        np.maximum(np.outer(popularity, popularity), 1)
    )
    by_popularity = ndcg(split, lambda history, c: popularity[c])
    by_order = ndcg(split, lambda history, c: follows[history[-1], c] + 1e-6 * popularity[c])
    by_company = ndcg(split, lambda history, c: together[np.ix_(history, c)].sum(0))
    assert by_popularity < 0.3
    assert by_order > 0.6
    assert by_company > 0.6


def test_size_and_shape(split):
    s = split.sequences
    assert (s.num_users, s.num_items) == (2000, 1000)
    assert s.lengths.min() >= 8 and s.lengths.max() <= 40
    pairs = np.unique(s.event_users * 1001 + s.items)
    assert len(pairs) == len(s.items)  # no user has an item twice
    counts = np.sort(split.train_counts()[1:])
    assert counts[-100:].sum() > 2.5 * counts[:100].sum()  # a skewed popularity


def test_same_seed_same_log():
    first, same, other = synthetic(7), synthetic(7), synthetic(8)
    assert first.frame.equals(same.frame) and not first.frame.equals(other.frame)
    assert "synthetic interactions (not real data) from seed 7" in first.form
    # Fixed for ever, on every machine: published numbers depend on it.
    assert len(first.frame) == 37_417
    assert first.frame.row(0) == ("user1498", "item894", 1_600_007_288.0)
    assert first.frame.row(-1) == ("user1340", "item314", 1_628_306_250.0)
    times = first.frame["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()


def test_size_is_checked():
    assert build_sequences(synthetic(users=50, items=100))[0].num_users == 50
    with pytest.raises(ValueError, match="items=90: expected a multiple of 25, at least 100"):
        synthetic(items=90)
