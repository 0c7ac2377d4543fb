import math

import numpy as np
import pytest
import torch
from support.sequences import sequences_of

from rka_fast.data.batches import Batcher, sampled_candidates
from rka_fast.data.split_rules import leave_one_out
from rka_fast.training import metrics
from rka_fast.training.metrics import (
    METRICS,
    Evaluation,
    both_metrics,
    gains,
    rank_metrics,
    target_ranks,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("target", "others", "rank"),
    [
        (3.0, [1, 2], 1),
        (3.0, [4, 2, 5], 3),
        (3.0, [3, 3, 1], 3),  # ties count against the target
        (0.0, [0, 0, 0], 4),
        (NAN, [1, 2, 3], 4),  # a target without a score is last
        (NAN, [NAN, -INF], 3),
        (3.0, [NAN, 1], 2),  # and a competitor without one does not help it
        (-INF, [-INF, 0], 3),
        (INF, [INF, 0], 2),
    ],
)
def test_rank_wherever_the_target_stands(target, others, rank):
    for place in range(len(others) + 1):
        row = [*others[:place], target, *others[place:]]
        scores = torch.tensor([row], dtype=torch.float32)
        assert target_ranks(scores, torch.tensor([place])).tolist() == [rank]


def test_ignored_columns_are_no_candidates():
    scores = torch.tensor([[9.0, NAN, 2.0, 5.0]])
    ignored = torch.tensor([[True, True, True, False]])
    assert target_ranks(scores, torch.tensor([2]), ignored).tolist() == [2]


def test_metrics_by_hand():
    # ranks 1, 3, 7, 11: two within 5, three within 10; log2(2) = 1, log2(4) = 2, log2(8) = 3
    assert rank_metrics(np.array([1, 3, 7, 11])) == pytest.approx(
        {
            "hit@5": 2 / 4,
            "ndcg@5": (1 + 1 / 2) / 4,
            "mrr@5": (1 + 1 / 3) / 4,
            "hit@10": 3 / 4,
            "ndcg@10": (1 + 1 / 2 + 1 / 3) / 4,
            "mrr@10": (1 + 1 / 3 + 1 / 7) / 4,
        }
    )
    with pytest.raises(ValueError, match="no ranks"):
        rank_metrics(np.array([]))


def test_every_metric_has_a_title_and_ends_at_its_cut_off():
    assert [METRICS[name].title for name in ("hit@5", "ndcg@10")] == ["Hit@5", "NDCG@10"]
    for name, metric in METRICS.items():
        cutoff = int(name.partition("@")[2])
        assert metric.title.lower() == name
        found = gains(np.array([1, cutoff, cutoff + 1]), name)
        assert found[0] == 1 and found[1] > 0 and found[2] == 0


class TableModel(torch.nn.Module):
    """Scores are a fixed table of few values, so that ties abound."""

    def __init__(self, users, items):
        super().__init__()
        table = torch.randint(0, 40, (users, items + 1), generator=torch.manual_seed(1)).float()
        table[:, ::7] += 20  # so that some targets rank high
        self.table = torch.cat([torch.full((users, 1), -INF), table[:, 1:]], dim=1)
        self.largest = 0

    def scores(self, batch):
        scores = self.table[batch.users]
        self.largest = max(self.largest, scores.numel())
        return scores


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    lengths = np.array([2, *rng.integers(3, 12, 40)])
    items = rng.integers(1, 151, lengths.sum()).astype(np.int32)
    ends = np.cumsum(lengths)
    items[ends[3::9] - 1] = items[ends[3::9] - lengths[3::9]]  # some end with what they began with
    return leave_one_out(sequences_of(np.split(items, np.cumsum(lengths)[:-1]), 150))


def literal_metrics(split, stage, negatives, table):
    """Sampled and full metrics by loops over users and candidates."""
    sums = {kind: dict.fromkeys(METRICS, 0.0) for kind in ("sampled", "full")}
    users = [user for user in range(41) if len(split.sequences.sequence(user)) >= 3]
    for row, user in enumerate(users):
        sequence = split.sequences.sequence(user).tolist()
        target = sequence[-1] if stage == "test" else sequence[-2]
        unseen = [item for item in range(1, 151) if item not in sequence]
        if target in sequence[: len(sequence) - (1 if stage == "test" else 2)]:
            continue  # had before, so never shown: a miss
        for kind, candidates in (("sampled", negatives[row].tolist()), ("full", unseen)):
            rank = 1
            for item in candidates:
                if table[user, item] >= table[user, target]:
                    rank += 1
            for cutoff in (5, 10):
                if rank <= cutoff:
                    sums[kind][f"hit@{cutoff}"] += 1
                    sums[kind][f"ndcg@{cutoff}"] += math.log(2) / math.log(rank + 1)
                    sums[kind][f"mrr@{cutoff}"] += 1 / rank
    return {
        kind: {name: value / len(users) for name, value in of_kind.items()}
        for kind, of_kind in sums.items()
    }


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_evaluation_equals_literal_loops(split, stage):
    negatives = sampled_candidates(split, stage, 100, seed=0)
    model = TableModel(41, 150)
    model.table[5] = NAN  # a model that fails on one user gets no credit there
    ranks = Evaluation(split, Batcher(split, None, 5, 0), stage, negatives)(model).ranks
    result = both_metrics(ranks)
    expected = literal_metrics(split, stage, negatives, torch.nan_to_num(model.table, nan=0.0))
    assert expected["full"]["hit@10"] > 0 and expected["sampled"]["hit@5"] > 0
    for kind in ("sampled", "full"):
        assert result[kind] == pytest.approx(expected[kind], abs=1e-12)


def test_chunks_bound_the_memory_and_do_not_change_the_metrics(split, monkeypatch):
    batcher, negatives = Batcher(split, None, 5, 0), sampled_candidates(split, "test", 100, seed=0)
    whole = Evaluation(split, batcher, "test", negatives)(TableModel(41, 150))
    assert split.had("test").any()
    monkeypatch.setattr(metrics, "SCORES_AT_ONCE", 500)
    model = TableModel(41, 150)
    found = Evaluation(split, batcher, "test", negatives)(model)
    assert torch.equal(found.ranks, whole.ranks) and torch.equal(found.lists, whole.lists)
    assert 0 < model.largest <= 500


def test_histories_of_similar_length_are_ranked_together(split):
    """Ranks stand where their targets do, whatever the order in which they are found."""
    batcher, negatives = Batcher(split, None, 5, 0), sampled_candidates(split, "test", 100, seed=0)
    evaluation = Evaluation(split, batcher, "test", negatives)
    evaluation.chunk = 7
    lengths = []

    class Watched(TableModel):
        def scores(self, batch):
            lengths.append((batch.items > 0).sum(1))
            return super().scores(batch)

    found = evaluation(Watched(41, 150))
    lengths = torch.cat(lengths)
    assert torch.equal(lengths, lengths.sort().values) and lengths[0] < lengths[-1] == 5
    alone = Evaluation(split, batcher, "test", negatives)
    alone.order, alone.chunk = np.arange(len(alone.order))[::-1].copy(), 1
    expected = alone(TableModel(41, 150))
    assert torch.equal(found.ranks, expected.ranks) and torch.equal(found.lists, expected.lists)


def test_processes_together_give_the_metrics_of_one(split, monkeypatch):
    monkeypatch.setattr(metrics, "SCORES_AT_ONCE", 500)
    evaluation = Evaluation(
        split, Batcher(split, None, 5, 0), "test", sampled_candidates(split, "test", 100, seed=0)
    )
    model, parts, seeds = TableModel(41, 150), [], []

    def collect(ranks):  # what the other processes would add
        parts.append(ranks.clone())
        return sum(parts) if len(parts) == 3 else ranks + 1

    for rank in range(3):
        together = evaluation(model, rank=rank, world=3, reduce=collect, seed=seeds.append)
    assert torch.equal(together.ranks, evaluation(model).ranks)
    assert sorted(seeds) == list(range(14))  # 40 users in chunks of 3, each scored once
