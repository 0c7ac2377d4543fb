"""Batches against literal loops; every random choice a function of seed and step."""

import dataclasses

import numpy as np
import pytest
import torch
from support.sequences import sequences_of

from rka_fast.data.batches import Batcher, sampled_candidates
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.split_rules import leave_one_out
from rka_fast.errors import DataError


def make(lists, num_items):
    return leave_one_out(sequences_of(lists, num_items))


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return make([rng.integers(1, 41, rng.integers(1, 13)) for _ in range(50)], 40)


def batcher(split, **changes):
    settings = {"max_length": 6, "seed": 5, "negatives": 3, "kernel_loss": True, "kernel_items": 10}
    return Batcher(split, CoOccurrence.from_split(split), **settings | changes)


def equal(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_training_rows_are_the_last_inputs_and_targets(split):
    made = batcher(split)
    users = made.training_users
    batch = made.training(users, 0)
    s = split.sequences
    for row, user in enumerate(users):
        train = s.items[s.indptr[user] : split.train_end[user]].tolist()
        inputs, targets = train[:-1][-6:], train[1:][-6:]
        padding = [0] * (6 - len(inputs))
        assert batch.items[row].tolist() == padding + inputs
        assert batch.targets[row].tolist() == padding + targets
    assert batch.users.tolist() == users.tolist()
    assert users.tolist() == [u for u in range(50) if split.train_end[u] - s.indptr[u] >= 2]
    assert {t.dtype for t in (batch.users, batch.items, batch.targets, batch.negatives)} == {
        torch.int64
    }


def test_negatives_are_uniform_over_what_the_user_did_not_train_on(split):
    made = batcher(split, negatives=400, kernel_loss=False)
    batch = made.training(made.training_users[:4], 1)
    for row, user in enumerate(made.training_users[:4]):
        s = split.sequences
        train = set(s.items[s.indptr[user] : split.train_end[user]].tolist())
        for target, drawn in zip(batch.targets[row], batch.negatives[row], strict=True):
            if target == 0:
                assert (drawn == 0).all()
        drawn = batch.negatives[row][batch.targets[row] > 0].flatten().numpy()
        free = sorted(set(range(1, 41)) - train)
        counts = np.bincount(drawn, minlength=41)
        assert counts[free].sum() == len(drawn)
        expected = len(drawn) / len(free)
        chi2 = ((counts[free] - expected) ** 2 / expected).sum()
        assert chi2 < len(free) + 5 * np.sqrt(2 * len(free))


@pytest.mark.parametrize("sharing", ["sequence", "batch"])
def test_shared_negatives(split, sharing):
    made = batcher(split, negatives=400, kernel_loss=False, shared_negatives=sharing)
    users = made.training_users[:4]
    drawn = made.training(users, 1).negatives.numpy()
    assert drawn.shape == ((4, 400) if sharing == "sequence" else (400,))
    assert (drawn == made.training(users, 1).negatives.numpy()).all()
    assert (drawn != made.training(users, 2).negatives.numpy()).any()
    s = split.sequences
    for user, row in zip(users, np.atleast_2d(drawn), strict=sharing == "sequence"):
        train = s.items[s.indptr[user] : split.train_end[user]] if sharing == "sequence" else []
        assert set(row.tolist()) == set(range(1, 41)) - set(map(int, train))  # 400 draws of 40


def test_times_are_of_the_events_and_of_those_that_follow(split):
    times = np.random.default_rng(3).uniform(0, 1e9, len(split.sequences.items))
    timed = leave_one_out(dataclasses.replace(split.sequences, timestamps=times))
    made = batcher(timed, times=True)
    users = made.training_users
    training, test = made.training(users, 0), made.evaluation(np.arange(20), "test")
    start = timed.sequences.indptr[:-1]
    ends = [(training, users, timed.train_end[users] - 1), (test, *timed.test)]
    for batch, of, until in ends:
        for row in range(20):
            events = range(start[of[row]], until[row])[-6:]
            padding = [0] * (6 - len(events))
            assert batch.times[row].tolist() == padding + [int(times[e]) for e in events]
            following = [int(times[e + 1]) for e in events]
            assert batch.request_times[row].tolist() == padding + following
    assert training.times.dtype == training.request_times.dtype == torch.int64
    known = made.history(
        timed.history(0, "test").tolist(),
        int(timed.test.users[0]),
        times[start[timed.test.users[0]] : timed.test.at[0]],
        times[timed.test.at[0]],
    )
    assert torch.equal(known.times[0], test.times[0])
    assert torch.equal(known.request_times[0], test.request_times[0])
    with pytest.raises(DataError, match="expected one for each of the 2 items .* got 1 and 5"):
        made.history([1, 2], times=[1.0], at=5)
    with pytest.raises(DataError, match="needs the time of every event and this data has none"):
        batcher(split, times=True)
    assert batcher(timed).training(users, 0).times is None


def test_kernel_items_are_distinct_items_of_the_batch(split):
    made = batcher(split)
    batch = made.training(made.training_users[:9], 2)
    seen = set(batch.items.flatten().tolist()) | set(batch.targets.flatten().tolist())
    chosen = batch.kernel_items.tolist()
    assert len(chosen) == len(set(chosen)) == 10 and set(chosen) < seen - {0}
    plain = made.cooccurrence.matrix.toarray()[np.ix_(chosen, chosen)]
    assert (batch.kernel_counts.numpy() == plain).all()
    few = batcher(split, kernel_items=512).training(made.training_users[:9], 2)
    assert set(few.kernel_items.tolist()) == seen - {0}


def test_counts_leave_the_user_out(split):
    made, plain = batcher(split), batcher(split, leave_self_out=False)
    users = made.training_users[:7]
    batch, raw = made.training(users, 0), plain.training(users, 0)
    mark = (batch.items > 0).float()  # every input trains
    assert torch.equal(raw.cooccurrence - batch.cooccurrence, mark[:, :, None] * mark[:, None])


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_evaluation_takes_out_only_what_was_counted(split, stage):
    made, plain = batcher(split), batcher(split, leave_self_out=False)
    users = split.targets(stage).users
    rows = np.arange(len(users))
    batch, raw = made.evaluation(rows, stage), plain.evaluation(rows, stage)
    assert batch.targets is batch.negatives is batch.kernel_items is None
    s, uncounted = split.sequences, 0
    for row, user in enumerate(users):
        history = split.history(row, stage)[-6:].tolist()
        assert batch.items[row].tolist() == [0] * (6 - len(history)) + history
        train = set(s.items[s.indptr[user] : split.train_end[user]].tolist())
        mark = np.array([item in train for item in batch.items[row].tolist()], np.float32)
        uncounted += int((mark[-1] == 0) and history[-1] not in train)
        taken = (raw.cooccurrence - batch.cooccurrence)[row].numpy()
        assert (taken == np.outer(mark, mark)).all()
    # In the test the history ends with the validation item, which is not in the counts.
    assert (uncounted > 0) == (stage == "test")


def test_history_of_a_stranger(split):
    made = batcher(split)
    batch = made.history([4, 9, 4])
    assert batch.users.tolist() == [-1] and batch.items.tolist() == [[4, 9, 4]]
    assert (batch.cooccurrence.numpy() == made.cooccurrence.block(batch.items.numpy())).all()
    assert made.history(list(range(1, 9))).items.tolist() == [[3, 4, 5, 6, 7, 8]]
    user = int(split.test.users[0])
    known = made.history(split.history(0, "test").tolist(), user)
    assert torch.equal(known.cooccurrence, made.evaluation([user], "test").cooccurrence)
    with pytest.raises(DataError, match="the history is empty"):
        made.history([])
    with pytest.raises(DataError, match="expected item indices from 1 to 40"):
        made.history([3, 41])


def test_randomness_is_a_function_of_seed_and_step(split):
    one, same, other = batcher(split), batcher(split), batcher(split, seed=6)
    users = one.training_users
    one.training(users, 11)  # what was drawn before does not matter
    first = one.training(users, 12)
    assert equal(first, same.training(users, 12))
    assert not torch.equal(first.negatives, same.training(users, 13).negatives)
    assert not torch.equal(first.negatives, other.training(users, 12).negatives)
    assert not torch.equal(first.kernel_items, same.training(users, 13).kernel_items)
    assert (one.epoch_order(3) == same.epoch_order(3)).all()
    assert (one.epoch_order(3) != same.epoch_order(4)).any()
    assert sorted(one.epoch_order(3)) == users.tolist()
    assert one.steps_per_epoch(len(users)) == 1 and one.steps_per_epoch(len(users) - 1) == 2


def test_parts_that_were_not_asked_for(split):
    batch = Batcher(split, None, 6, seed=0).training([int(split.test.users[0])], 0)
    assert (
        batch.negatives is batch.cooccurrence is batch.kernel_items is batch.kernel_counts is None
    )
    with pytest.raises(ValueError, match="kernel_loss=True needs cooccurrence"):
        Batcher(split, None, 6, seed=0, kernel_loss=True)


def test_nothing_to_train_on():
    made = Batcher(make([[1, 2, 3], [3, 2, 1]], 3), None, 4, seed=0)
    assert made.steps_per_epoch(8) == 0
    with pytest.raises(DataError, match="no user has 2 training events"):
        made.epoch_order(0)
    with pytest.raises(DataError, match="user 'u0' trains on all 3 items, so no negative is left"):
        Batcher(make([[1, 2, 3, 1, 2], [3, 2, 1]], 3), None, 4, seed=0, negatives=1)


@pytest.mark.parametrize("num_items", [40, 1000])  # shuffled and drawn: both ways of choosing
def test_candidates_are_distinct_and_never_had(num_items):
    rng = np.random.default_rng(1)
    split = make(
        [rng.integers(1, num_items + 1, rng.integers(1, 15)) for _ in range(60)], num_items
    )
    for stage in ("valid", "test"):
        chosen = sampled_candidates(split, stage, count=20, seed=3)
        users = split.targets(stage).users
        assert chosen.dtype == np.int32 and chosen.shape == (len(users), 20)
        for user, row in zip(users, chosen.tolist(), strict=True):
            assert len(set(row)) == 20 and min(row) >= 1 and max(row) <= num_items
            assert not set(row) & set(split.sequences.sequence(user).tolist())
        assert (chosen == sampled_candidates(split, stage, 20, seed=3)).all()
        assert (chosen != sampled_candidates(split, stage, 20, seed=4)).any()
    assert (sampled_candidates(split, "valid", 20, 3) != chosen).any()


@pytest.mark.parametrize("num_items", [40, 1000])
def test_candidates_do_not_depend_on_how_many_are_drawn_together(num_items, monkeypatch):
    rng = np.random.default_rng(2)
    split = make([rng.integers(1, num_items + 1, 9) for _ in range(50)], num_items)
    whole = sampled_candidates(split, "test", 20, seed=3)
    monkeypatch.setattr("rka_fast.data.batches.ROWS_AT_ONCE", 7)
    assert (sampled_candidates(split, "test", 20, seed=3) == whole).all()


@pytest.mark.parametrize("num_items", [60, 400])
def test_candidates_are_uniform(num_items):
    split = make([[1, 2, 3]] * 4000, num_items)
    counts = np.bincount(sampled_candidates(split, "test", 20).ravel(), minlength=num_items + 1)[4:]
    expected = 4000 * 20 / (num_items - 3)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_catalogue_smaller_than_the_negatives():
    """As many as there are, for each user: u0 has had 4 of 102 items, u1 three."""
    split = make([[1, 2, 3, 4], [5, 6, 7]], 102)
    rows = sampled_candidates(split, "test", 100)
    assert sorted(rows[0, :98].tolist()) == list(range(5, 103)) and rows[0, 98:].tolist() == [0, 0]
    assert sorted(rows[1].tolist())[1:] == [i for i in range(1, 103) if i not in (5, 6, 7)]
    assert (rows[1] == 0).sum() == 1  # 99 are left
    assert sorted(sampled_candidates(split, "test", 98)[0].tolist()) == list(range(5, 103))


def test_candidates_where_everything_may_be_shown_again():
    split = dataclasses.replace(make([[1, 2, 1, 2], [3, 1, 2]], 4), seen="keep")
    assert [sorted(row) for row in sampled_candidates(split, "test", 3).tolist()] == [
        [1, 3, 4],
        [1, 3, 4],
    ]
