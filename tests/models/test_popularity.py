"""POP counts training events only."""

import torch

from rka_fast.models import Popularity


def test_scores_are_training_counts(split, batch):
    model = Popularity.from_config(None, split)
    model.fit(split)
    expected = torch.zeros(13)
    for user in range(10):
        for item in split.sequences.sequence(user)[:-2]:
            expected[item] += 1
    scores = model.scores(batch)
    assert (scores[:, 0] == -torch.inf).all()
    assert torch.equal(scores[:, 1:], expected[1:].expand(6, -1))
