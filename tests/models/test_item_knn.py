"""Item-KNN against hand-counted similarities and the dense formula."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.sequences import sequences_of

from rka_fast.data import cooccurrence
from rka_fast.data.split_rules import leave_one_out
from rka_fast.models import ItemKNN
from rka_fast.training.metrics import target_ranks


def split_of(*histories, num_items):
    return leave_one_out(sequences_of(histories, num_items))


def batch_of(*rows):
    return SimpleNamespace(items=torch.tensor(rows))


def test_similarity_by_hand():
    """The last two events of a history do not count: training has 1 2 1, 1 2 and 3 2."""
    split = split_of([1, 2, 1, 4, 5], [1, 2, 5, 4], [3, 2, 4, 5], num_items=5)
    model = ItemKNN(5)
    model.fit(split)
    # support: item 1 three events, item 2 three, item 3 one; item 1 is had thrice beside a 2,
    # item 2 twice beside a 1, since each event counts the items of its sequence once
    from_1, from_2, from_3, from_4 = model.scores(batch_of([3, 1], [0, 2], [2, 3], [1, 4]))[
        :, 1:
    ].tolist()
    assert from_1 == pytest.approx([0, 3 / 23, 0, 0, 0])
    assert from_2 == pytest.approx([2 / 23, 0, 1 / (23 * 21) ** 0.5, 0, 0])
    assert from_3 == pytest.approx([0, 1 / (21 * 23) ** 0.5, 0, 0, 0])
    assert from_4 == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("pairs", [1, 20, 2**20])
def test_only_the_nearest_are_kept(split, monkeypatch, pairs):
    """The literal double loop over items; distinct items of a history, so counts are plain."""
    monkeypatch.setattr(cooccurrence, "AT_ONCE", pairs)  # of one item, of some and of all
    training = [split.sequences.sequence(u)[:-2].tolist() for u in range(10)]
    support = [sum(h.count(i) for h in training) for i in range(13)]
    model = ItemKNN(12, neighbours=3)
    model.fit(split)
    for i in range(1, 13):
        similarity = np.zeros(13)
        for j in range(1, 13):
            if j != i:
                both = sum(i in h and j in h for h in training)
                similarity[j] = both / np.sqrt((support[i] + 20) * (support[j] + 20))
        best = sorted(range(1, 13), key=lambda j: (-similarity[j], j))[:3]
        expected = np.where(np.isin(np.arange(13), best), similarity, 0)
        scores = model.scores(batch_of([5, i]))[0]
        assert scores[0] == -torch.inf
        np.testing.assert_allclose(scores[1:], expected[1:], rtol=1e-6)


def test_a_hundred_neighbours_of_many():
    rng = np.random.default_rng(0)
    histories = [[1, *rng.permutation(np.arange(2, 200))[:60], 200, 201] for _ in range(30)]
    split = split_of(*histories, num_items=201)
    model = ItemKNN.from_config(None, split)
    model.fit(split)
    scores = model.scores(batch_of([1]))[0, 1:]
    together = np.zeros(202)
    for history in histories:
        together[history[1:-2]] += 1
    similarity = together / np.sqrt((30 + 20) * (together + 20))
    assert (scores > 0).sum() == 100
    expected = np.sort(similarity)[::-1][:100]
    np.testing.assert_allclose(scores.sort(descending=True)[0][:100], expected, rtol=1e-6)


def test_a_target_that_is_no_neighbour_is_a_miss(split):
    model = ItemKNN(12, neighbours=2)
    model.fit(split)
    scores = model.scores(batch_of([4]))
    zero = (scores[0] == 0).nonzero()[0]
    assert target_ranks(scores[:, 1:], zero - 1).item() == 12
    best = scores[0].argmax().unsqueeze(0)
    assert target_ranks(scores[:, 1:], best - 1).item() <= 2
