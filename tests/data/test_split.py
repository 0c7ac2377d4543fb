"""Both splits against plain lists."""

import dataclasses
import functools
import math
import operator

import numpy as np
import pytest
from support.sequences import sequences_of

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.split_rules import (
    SPLITS,
    TARGETS,
    SplitOptions,
    leave_one_out,
    time_boundaries,
    time_split,
)
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
        else:
            row = split.test.users.tolist().index(user)
            assert train.tolist() == events[:-2] == split.history(row, "valid").tolist()
            assert split.history(row, "test").tolist() == events[:-1]
            found = [split.target_items(stage)[row] for stage in ("valid", "test")]
            assert found == events[-2:]
    assert split.valid.users.tolist() == split.test.users.tolist() == [0, 1, 4]
    assert split.target_items("valid").tolist() == [3, 5, 3]
    assert split.had("valid").tolist() == [False, True, True]  # of [5, 5, 1] and [3, 1, 3, 3, 2]
    assert split.had("test").tolist() == [False, False, False]
    assert split.had("valid") is split.had("valid")  # every evaluation asks for it
    trained = functools.reduce(operator.iadd, (e if len(e) < 3 else e[:-2] for e in LISTS), [])
    assert split.train_counts().tolist() == [trained.count(i) for i in range(6)]
    with pytest.raises(ValueError, match="stage='dev': expected one of valid, test"):
        split.targets("dev")


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


BY_HAND = SplitOptions(boundaries=f"{9 / 17},{13 / 17}")


def test_time_split_by_hand():
    sequences = timed(LOG)
    assert time_boundaries(sequences, BY_HAND.boundaries) == (8.0, 9.0)
    split = time_split(sequences, BY_HAND)
    lengths = split.train_end - sequences.indptr[:-1]
    assert lengths.tolist() == [2, 2, 0, 0, 4, 0]
    # user 2 and 5 begin in the validation period, so nothing is known of them there; user 3
    # begins in the test period; user 4 ends before; user 1 has nothing in the validation period
    assert split.valid.users.tolist() == [0] and split.target_items("valid").tolist() == [3]
    assert split.test.users.tolist() == [0, 1, 2]
    assert split.target_items("test").tolist() == [4, 2, 4]
    assert split.history(0, "valid").tolist() == [1, 2]
    assert split.history(0, "test").tolist() == [1, 2, 3]
    assert split.history(2, "test").tolist() == [3]
    assert split.train_counts().tolist() == [0, 3, 2, 1, 1, 1]


def test_time_split_lets_nothing_of_the_future_in():
    split = time_split(timed(LOG), BY_HAND)
    for stage, known in (("valid", [1, 2, 3]), ("test", [1, 2, 3, 4])):
        assert split.no_candidates(stage).of(0).tolist() == known
    # leave-one-out as published leaves everything out that the user ever has
    assert leave_one_out(timed(LOG)).no_candidates("valid").of(0).tolist() == [1, 2, 3, 4, 5]
    counts = CoOccurrence.from_split(split).matrix.toarray()
    pairs = [{1, 2}, {5, 1}, {1, 2, 3, 4}]  # of the training events
    expected = [[sum({i, j} <= pair for pair in pairs) for j in range(1, 6)] for i in range(1, 6)]
    assert (counts[1:, 1:] == expected).all()
    batcher = Batcher(split, None, 4, 0)
    assert batcher.training_users.tolist() == [0, 1, 4]
    batch = batcher.evaluation(np.array([0, 2]), "test")  # rows: users 0 and 2
    assert batch.items.tolist() == [[1, 2, 3], [0, 0, 3]]  # as many as the longest has
    assert batch.users.tolist() == [0, -1]  # user 2 has no training events, so no vector


@pytest.mark.parametrize("targets", TARGETS)
def test_time_split_of_random_logs_against_loops(targets):
    rng = np.random.default_rng(0)
    log = [
        sorted(zip(rng.integers(1, 6, n), rng.integers(0, 40, n), strict=True), key=lambda e: e[1])
        for n in rng.integers(1, 9, 60)
    ]
    times = sorted(time for events in log for _, time in events)
    first, second = (times[math.ceil(q * (len(times) - 1))] for q in (0.8, 0.9))
    split = time_split(timed(log), SplitOptions(targets=targets, seed=3))
    for stage, begin, end in (("valid", first, second), ("test", second, math.inf)):
        found: dict[int, list[int]] = {}
        users, at = split.targets(stage)
        for user, offset in zip(users.tolist(), at.tolist(), strict=True):
            found.setdefault(user, []).append(offset - split.sequences.indptr[user])
        for user, events in enumerate(log):
            known = sum(time < begin for _, time in events)
            places = [i for i, (_, time) in enumerate(events) if begin <= time < end]
            if targets == "first":
                expected = [places[:1]] if known and places else [[]]
            else:
                places = [i for i in places if i > 0]  # something must come before
                expected = {
                    "last": [places[-1:]],
                    "random": [[i] for i in places] or [[]],
                    "successive": [places],
                }[targets]
            assert found.get(user, []) in expected
            assert split.train_end[user] - split.sequences.indptr[user] == sum(
                time < first for _, time in events
            )
    for row, (user, at) in enumerate(zip(*split.test, strict=True)):
        events = [item for item, _ in log[user]][: at - split.sequences.indptr[user]]
        assert split.history(row, "test").tolist() == events
        target = split.target_items("test")[row]
        assert set(split.no_candidates("test").of(row)) == {*events, target}
        assert split.had("test")[row] == (target in events)


def test_random_targets_follow_the_seed_and_are_uniform():
    log = [[(1, 0)] + [(i, 10 + i) for i in range(1, 6)] for _ in range(3000)]
    options = SplitOptions(boundaries="1970-01-01,1970-01-01T00:00:11", targets="random")
    split = time_split(timed([[(1, -1), (2, 2), *events] for events in log]), options)
    place = split.test.at - split.sequences.indptr[split.test.users]
    counts = np.bincount(place)[3:]
    assert counts.sum() == 3000 and (np.abs(counts - 600) < 5 * math.sqrt(600 * 0.8)).all()
    other = time_split(split.sequences, options._replace(seed=1))
    assert (other.test.at != split.test.at).any()


def test_boundaries_by_date():
    sequences = timed([[(1, 0.0), (2, 86400.0), (3, 2 * 86400.0)], [(4, 0.0), (5, 3 * 86400.0)]])
    assert time_boundaries(sequences, "1970-01-02, 1970-01-03T00:00:00Z") == (86400.0, 172800.0)
    assert time_boundaries(sequences, "1970-01-02T02:00+02:00,1970-01-03") == (86400.0, 172800.0)
    for wrong in ("0.9,0.8", "0.5", "1970-01-02,soon", "0.5,1.5", "1971-01-01,1970-01-01", ""):
        with pytest.raises(DataError, match="split_boundaries.*two rising quantiles"):
            time_boundaries(sequences, wrong)


def test_time_split_needs_times_and_users_in_every_period():
    with pytest.raises(DataError, match="needs the time.*--columns.*--split leave-one-out"):
        time_split(make(LISTS))
    with pytest.raises(DataError, match="no event is before 0, .*nothing to train on.* 0 to 0"):
        time_split(timed([[(1, 0), (2, 0)], [(3, 0), (4, 0)]]))
    with pytest.raises(DataError, match="no user has an event in the valid period and one before"):
        time_split(timed([[(1, 0), (2, 0)], [(3, 9), (4, 9)]]))
    years = timed([[(1, 1_600_000_000), (2, 1_600_000_060)], [(3, 1_600_000_000)]])
    for boundaries, message in (
        ("2020-01-01,2020-02-01", r"no event is before 1577836800 \(2020-01-01 00:00:00 UTC\)"),
        ("2021-01-01,2022-01-01", r"last event is at 1600000060 \(2020-09-13 12:27:40 UTC\)"),
    ):
        with pytest.raises(DataError, match=message):
            time_split(years, SplitOptions(boundaries=boundaries))


def test_a_split_by_time_is_told_with_dates_and_targets():
    lists = [[(1, 1_600_000_000), (2, 1_600_000_060)], [(3, 1_600_000_000), (1, 1_600_000_120)]]
    options = SplitOptions(boundaries="2020-09-13T12:27,2020-09-13T12:28", targets="last")
    facts, lines = SPLITS["time"].describe(timed(lists), options)
    assert facts == {"split_targets": "last", "boundaries": (1_600_000_020.0, 1_600_000_080.0)}
    assert lines == [
        "split by time: of a user's events of a period the last is asked for",
        "split by time: validation begins at 1600000020 (2020-09-13 12:27:00 UTC), "
        "test at 1600000080 (2020-09-13 12:28:00 UTC)",
    ]
