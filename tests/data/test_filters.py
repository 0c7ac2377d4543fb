"""Filtering, sorting and indexing, against loops and small cases worked out by hand."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest

from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.readers import Interactions, read_interactions
from rka_fast.errors import DataError


def log(rows, names=("user", "item", "rating", "timestamp")):
    frame = pl.DataFrame(rows, schema=list(names)[: len(rows[0])], orient="row")
    return Interactions(frame, "made up")


def by_id(sequences):
    return {
        name: [sequences.item_id(i) for i in sequences.sequence(u)]
        for u, name in enumerate(sequences.user_ids)
    }


def random_log(seed=0, events=600):
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.5, events) % 40, rng.zipf(1.4, events) % 30
    return [(f"u{u}", f"i{i}") for u, i in zip(users, items, strict=True)]


def test_sorted_by_time_and_ties_keep_file_order():
    rows = [("a", "x", 1.0, 5.0), ("b", "y", 1.0, 1.0), ("a", "y", 1.0, 2.0), ("a", "z", 1.0, 5.0)]
    rows += [("a", "w", 1.0, 5.0), ("b", "x", 1.0, 0.0)]
    sequences, report = build_sequences(log(rows))
    assert by_id(sequences) == {"a": ["y", "x", "z", "w"], "b": ["x", "y"]}
    assert sequences.timestamps.tolist() == [2, 5, 5, 5, 0, 1]
    assert sequences.item_ids == ["x", "y", "z", "w"]  # by first appearance in the file
    assert report.ties == 2


def test_without_times_the_file_is_in_time_order():
    rows = [("b", "2"), ("a", "9"), ("b", "1"), ("a", "3"), ("b", "2")]
    sequences, report = build_sequences(log(rows))
    assert by_id(sequences) == {"b": ["2", "1", "2"], "a": ["9", "3"]}
    assert sequences.timestamps is None
    assert "no times: the order of the file is taken as the order in time" in report.lines()


def test_missing_order_is_warned_of():
    rows = [(u, str(i)) for u in "abc" for i in range(3)]
    interactions = Interactions(log(rows).frame, "made up", ordered=False)
    _, report = build_sequences(interactions)
    assert any(line.startswith("warning: the data has no order") for line in report.lines())
    assert build_sequences(log(rows))[1].warnings == []


def test_single_pass_counts_raw_events():
    rows = random_log()
    users, items = Counter(u for u, _ in rows), Counter(i for _, i in rows)
    expected = [(u, i) for u, i in rows if users[u] >= 6 and items[i] >= 15]
    sequences, _ = build_sequences(log(rows), Filters(min_user_events=6, min_item_events=15))
    assert Counter((u, i) for u, seq in by_id(sequences).items() for i in seq) == Counter(expected)
    assert sequences.lengths.min() < 6  # what an iterated core would not leave


def test_iterated_core():
    expected = rows = random_log()
    while True:
        users, items = Counter(u for u, _ in expected), Counter(i for _, i in expected)
        fewer = [(u, i) for u, i in expected if users[u] >= 6 and items[i] >= 4]
        if fewer == expected:
            break
        expected = fewer
    filters = Filters(min_user_events=6, min_item_events=4, core="iterated")
    sequences, report = build_sequences(log(rows), filters)
    assert Counter((u, i) for u, seq in by_id(sequences).items() for i in seq) == Counter(expected)
    (dropped,) = report.dropped
    assert dropped.rule == "min_user_events=6, min_item_events=4 (iterated)"
    assert dropped.events == len(rows) - len(expected)
    assert dropped.users == len({u for u, _ in rows}) - len({u for u, _ in expected})
    assert dropped.items == len({i for _, i in rows}) - len({i for _, i in expected})


def test_repeats_keep_the_first_in_time():
    rows = [("a", "x", 1.0, 9.0), ("a", "y", 1.0, 5.0), ("a", "x", 1.0, 1.0), ("b", "x", 1.0, 1.0)]
    assert by_id(build_sequences(log(rows))[0])["a"] == ["x", "y", "x"]
    sequences, report = build_sequences(log(rows), Filters(repeats="drop"))
    assert by_id(sequences)["a"] == ["x", "y"] and sequences.timestamps[:2].tolist() == [1, 5]
    assert report.dropped[0].events == 1


def test_rules_apply_in_order():
    # a's low rating goes first, then its repeat, and then a has 1 event, too few.
    rows = [("a", "x", 5.0, 1.0), ("a", "x", 5.0, 2.0), ("a", "y", 1.0, 3.0)]
    rows += [(u, i, 5.0, 1.0) for u in "bc" for i in "xyz"]
    filters = Filters(min_rating=3, repeats="drop", min_user_events=2)
    sequences, report = build_sequences(log(rows), filters)
    assert sequences.user_ids == ["b", "c"]
    assert [(d.events, d.users) for d in report.dropped] == [(1, 0), (1, 0), (1, 1)]


def test_report_numbers():
    rows = [("a", i) for i in "vwxyz"] + [("b", i) for i in "vwx"] + [("c", "v")]
    _sequences, report = build_sequences(log(rows))
    assert (report.users, report.items, report.events, report.short_users) == (3, 5, 9, 1)
    assert report.density == pytest.approx(9 / 15)
    assert (report.lengths["min"], report.lengths["median"], report.lengths["max"]) == (1, 3, 5)
    assert json.loads(json.dumps(report.to_json()))["users"] == 3
    assert "users 3, items 5, events 9, density 60.000%" in report.lines()


@pytest.mark.parametrize(
    ("rows", "filters", "message"),
    [
        ([("a", "x"), ("b", "y")], {"min_rating": 4.0}, "min_rating=4: the data has no ratings"),
        ([("a", "x"), ("a", "y")], {}, "only one user, 'a', in the data .*made up.*--columns"),
        ([("a", "x"), ("a", "y"), ("b", "x")], {"min_user_events": 2}, "'a', is left .*relax"),
        ([("a", "x"), ("b", "y")], {"min_item_events": 5}, "no events are left .*dropped 2 events"),
    ],
)
def test_faults_are_named(rows, filters, message):
    with pytest.raises(DataError, match=message):
        build_sequences(log(rows), Filters(**filters))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"core": "both"}, "core='both': expected single or iterated"),
        ({"repeats": "some"}, "repeats='some': expected keep or drop"),
        ({"min_user_events": -1}, "min_user_events=-1: expected 0 or more"),
    ],
)
def test_filter_values_are_checked(values, message):
    with pytest.raises(DataError, match=message):
        Filters(**values)


def test_real_files_short_users_ties_and_order(shared_data):
    _, games = build_sequences(read_interactions(shared_data / "sasrec/video_sasrec.txt.gz"))
    assert games.short_users == 112
    sequences, movies = build_sequences(read_interactions(shared_data / "ml-100k/u.data.gz"))
    assert movies.ties == 50_561
    steps = np.diff(sequences.timestamps)[np.diff(sequences.event_users) == 0]
    assert (steps >= 0).all()
    _, cited = build_sequences(
        read_interactions(shared_data / "citeulike/citeulike-a_users.dat.gz")
    )
    assert any("no order" in warning for warning in cited.warnings)
