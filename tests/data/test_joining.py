"""New events joined to old sequences, against one reading of everything."""

import dataclasses

import pytest
from support.logs import by_user, make_log, table, write

from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.joining import joined
from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

HEADER = ("user", "item", "timestamp")
SINCE = 1_605_000_000


@pytest.fixture(scope="module")
def rows():
    return make_log(users=40, items=30, length=8).rows


def sequences_of(folder, rows, name="log", filters=None, header=HEADER):
    path = write(folder, table(rows, header), name)
    return build_sequences(read_interactions(path), filters)[0]


def read(folder, rows, header=HEADER):
    return read_interactions(write(folder, table(rows, header), "new"))


@pytest.mark.parametrize("whole", [False, True])
def test_old_and_new_are_the_whole_log(rows, whole, tmp_path):
    """Whether the new log has the new events or all: what was there already counts once."""
    parts = [row for row in rows if row[2] < SINCE], [row for row in rows if row[2] >= SINCE]
    assert min(map(len, parts)) > 20
    old = sequences_of(tmp_path, parts[0])
    log, there = joined(old, read(tmp_path, rows if whole else parts[1]), Filters())
    found = build_sequences(log)[0]
    expected = sequences_of(tmp_path, rows, "whole")
    assert by_user(found) == by_user(expected)
    assert sorted(found.timestamps) == sorted(expected.timestamps)
    assert there == (len(parts[0]) if whole else 0)


def test_minimums_hold_for_new_events_and_never_for_old_ones(tmp_path):
    """Counted over both: i3 has two old events and gets a third; i8 is new and has but one."""
    old = [("a", "i1", 1), ("a", "i3", 2), ("b", "i1", 1), ("b", "i3", 2), ("b", "i5", 3)]
    new = [("a", "i3", 9), ("a", "i8", 9), ("c", "i9", 10), ("d", "i9", 11), ("d", "i9", 12)]
    filters = Filters(min_item_events=3, min_user_events=2)
    log, _ = joined(sequences_of(tmp_path, old), read(tmp_path, new), filters)
    rest = dataclasses.replace(filters, min_item_events=1, min_user_events=1)
    found = by_user(build_sequences(log, rest)[0])
    assert found == {"a": ["i1", "i3", "i3"], "b": ["i1", "i3", "i5"], "d": ["i9", "i9"]}
    iterated = dataclasses.replace(filters, core="iterated")  # without c's, i9 has two events
    log, _ = joined(sequences_of(tmp_path, old), read(tmp_path, new), iterated)
    assert by_user(build_sequences(log, rest)[0]).keys() == {"a", "b"}


def test_new_events_rated_low_are_left_out(tmp_path):
    header = ("user", "item", "rating", "timestamp")
    old = sequences_of(tmp_path, [("a", "i1", 1), ("b", "i2", 2)])
    new = [("a", "i2", 5, 8), ("a", "i3", 2, 9), ("b", "i3", 4, 9)]
    log, _ = joined(old, read(tmp_path, new, header), Filters(min_rating=4))
    assert by_user(build_sequences(log)[0]) == {"a": ["i1", "i2"], "b": ["i2", "i3"]}
    with pytest.raises(DataError, match="min_rating=4: the new data has no ratings"):
        joined(old, read(tmp_path, [("a", "i2", 7)]), Filters(min_rating=4))


def test_times_of_one_alone_are_refused(tmp_path):
    timed = [("a", "i1", 1_600_000_000), ("b", "i2", 1_600_000_001)]
    bare = [("a", "i3"), ("b", "i1")]
    with pytest.raises(DataError, match="the data of the run has times and the new has none"):
        joined(sequences_of(tmp_path, timed), read(tmp_path, bare, HEADER[:2]), Filters())
    without = sequences_of(tmp_path, bare, header=HEADER[:2])
    with pytest.raises(DataError, match="the new data has times and the run's has none"):
        joined(without, read(tmp_path, timed), Filters())
    log, there = joined(without, read(tmp_path, bare, HEADER[:2]), Filters())
    assert by_user(build_sequences(log)[0]) == {"a": ["i3", "i3"], "b": ["i1", "i1"]} and not there
