"""Both splits against plain lists."""

import dataclasses
import math

import numpy as np
import pytest
from support.sequences import sequences_of

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.split import leave_one_out, time_boundaries, time_split
from rka_fast.errors import DataError

LISTS = [[1, 2, 3, 4], [5, 5, 1], [2, 3], [4], [3, 1, 3, 3, 2]]


def make(lists):
    return sequences_of(lists, 5)


def test_targets_histories_and_training_events():
    split = leave_one_out(make(LISTS))
    for user, events in enumerate(LISTS):
        train = split.sequences.items[split.sequences.indptr[user] : split.train_end[user]]
        if len(events) < 3:
            assert train.tolist() == events
            assert split.valid_target[user] == split.test_target[user] == 0
            for stage in ("valid", "test"):
                with pytest.raises(DataError, match=f"user 'u{user}' has no {stage} target"):
                    split.history(user, stage)
        else:
            assert train.tolist() == events[:-2] == split.history(user, "valid").tolist()
            assert split.history(user, "test").tolist() == events[:-1]
            assert [split.valid_target[user], split.test_target[user]] == events[-2:]
    assert split.users("valid").tolist() == split.users("test").tolist() == [0, 1, 4]
    assert split.targets("valid").tolist() == [3, 5, 0, 0, 3]
    trained = sum((e if len(e) < 3 else e[:-2] for e in LISTS), [])
    assert split.train_counts().tolist() == [trained.count(i) for i in range(6)]
    with pytest.raises(ValueError, match="stage='dev': expected one of valid, test"):
        split.users("dev")


def test_no_user_with_three_events():
    with pytest.raises(DataError, match="no user has 3 events .the longest of 3 has 2.*relax"):
        leave_one_out(make([[1, 2], [3], [4, 5]]))


# (item, time) of six users; of the 18 times the boundaries are 8 and 9
LOG = [[(1, 0), (2, 1), (3, 8), (4, 9), (5, 9)], [(5, 2), (1, 3), (2, 9)], [(3, 8), (4, 9)],
       [(2, 9), (3, 9)], [(1, 4), (2, 5), (3, 6), (4, 7)], [(4, 8), (2, 8)]]  # fmt: skip


def timed(log):
    sequences = make([[item for item, _ in events] for events in log])
    times = np.array([time for events in log for _, time in events], float)
    return dataclasses.replace(sequences, timestamps=times)


def test_time_split_by_hand(monkeypatch):
    monkeypatch.setattr("rka_fast.data.split.BOUNDARIES", (9 / 17, 13 / 17))
    sequences = timed(LOG)
    assert time_boundaries(sequences) == (8.0, 9.0)
    split = time_split(sequences)
    lengths = split.train_end - sequences.indptr[:-1]
    assert lengths.tolist() == [2, 2, 0, 0, 4, 0]
    # user 2 and 5 begin in the validation period, so nothing is known of them there; user 3
    # begins in the test period; user 4 ends before; user 1 has nothing in the validation period
    assert split.valid_target.tolist() == [3, 0, 0, 0, 0, 0]
    assert split.test_target.tolist() == [4, 2, 4, 0, 0, 0]
    assert split.history(0, "valid").tolist() == [1, 2]
    assert split.history(0, "test").tolist() == [1, 2, 3]
    assert split.history(2, "test").tolist() == [3]
    assert split.train_counts().tolist() == [0, 3, 2, 1, 1, 1]


def test_time_split_lets_nothing_of_the_future_in(monkeypatch):
    monkeypatch.setattr("rka_fast.data.split.BOUNDARIES", (9 / 17, 13 / 17))
    split = time_split(timed(LOG))
    for stage, known in (("valid", [1, 2, 3]), ("test", [1, 2, 3, 4])):
        assert split.known_items(stage).of(0).tolist() == known
    # leave-one-out as published leaves everything out that the user ever has
    assert leave_one_out(timed(LOG)).known_items("valid").of(0).tolist() == [1, 2, 3, 4, 5]
    counts = CoOccurrence.from_split(split).matrix.toarray()
    pairs = [{1, 2}, {5, 1}, {1, 2, 3, 4}]  # of the training events
    expected = [[sum({i, j} <= pair for pair in pairs) for j in range(1, 6)] for i in range(1, 6)]
    assert (counts[1:, 1:] == expected).all()
    batcher = Batcher(split, None, 4, 0)
    assert batcher.training_users.tolist() == [0, 1, 4]
    batch = batcher.evaluation(np.array([0, 2]), "test")
    assert batch.items.tolist() == [[0, 1, 2, 3], [0, 0, 0, 3]]
    assert batch.users.tolist() == [0, -1]  # user 2 has no training events, so no vector


def test_time_split_of_random_logs_against_loops():
    rng = np.random.default_rng(0)
    log = [
        sorted(zip(rng.integers(1, 6, n), rng.integers(0, 40, n), strict=True), key=lambda e: e[1])
        for n in rng.integers(1, 9, 60)
    ]
    split = time_split(timed(log))
    times = sorted(time for events in log for _, time in events)
    first, second = (times[math.ceil(q * (len(times) - 1))] for q in (0.8, 0.9))
    for user, events in enumerate(log):
        before = [item for item, time in events if time < first]
        between = [item for item, time in events if first <= time < second]
        after = [item for item, time in events if time >= second]
        assert split.train_end[user] - split.sequences.indptr[user] == len(before)
        assert split.valid_target[user] == (between[0] if before and between else 0)
        assert split.test_target[user] == (after[0] if before + between and after else 0)
        if before + between and after:
            assert split.history(user, "test").tolist() == before + between


def test_time_split_needs_times_and_users_in_every_period():
    with pytest.raises(DataError, match="needs the time.*--columns.*--split leave-one-out"):
        time_split(make(LISTS))
    with pytest.raises(DataError, match="no user has an event in the valid period and one before"):
        time_split(timed([[(1, 0), (2, 0)], [(3, 0), (4, 0)]]))
