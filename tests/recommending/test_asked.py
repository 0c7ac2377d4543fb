"""Files of histories, of items and of titles."""

import datetime
import json
import warnings

import numpy as np
import polars as pl
import pytest

from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError
from rka_fast.recommending.asked import (
    from_frame,
    histories_of,
    read_histories,
    read_ids,
)
from rka_fast.recommending.histories import of_lists
from rka_fast.recommending.tables import polars_frame
from rka_fast.recommending.titles import read_titles, titles_by_id

LISTS = {"ann": ["a,b", " c", "7"], "bob": ["7"]}


@pytest.fixture
def sequences():
    return Sequences(np.array([0, 2]), np.array([1, 2], np.int32), ["u"], ["x", "y"])


def test_histories_in_every_form(tmp_path):
    rows = [(user, item) for user, items in LISTS.items() for item in items]
    texts = {
        "a.csv": "user,item\n" + "".join(f'{user},"{item}"\n' for user, item in rows),
        "a.tsv": "user_id\titem_id\n" + "".join(f"{user}\t{item}\n" for user, item in rows),
        "a.json": json.dumps(LISTS),
        "b.json": json.dumps([{"user": user, "items": items} for user, items in LISTS.items()]),
        "c.jsonl": "".join(
            json.dumps({"user": user, "history": items}) + "\n" for user, items in LISTS.items()
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_histories(str(tmp_path / name)) == (LISTS, None), name
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    frame.write_parquet(tmp_path / "a.parquet")
    assert read_histories(str(tmp_path / "a.parquet")) == (LISTS, None)
    (tmp_path / "d.jsonl").write_text('["a", "b"]\n["c"]\n')
    assert read_histories(str(tmp_path / "d.jsonl")) == ({"0": ["a", "b"], "1": ["c"]}, None)
    (tmp_path / "d.json").write_text('["a", 5]')
    assert read_histories(str(tmp_path / "d.json")) == ({"0": ["a", 5]}, None)


def test_times_order_the_events(tmp_path):
    """Users stay in the order in which they come, events of one time in the file's."""
    day = datetime.datetime(2020, 1, 1)
    rows = [("b", "x", 3), ("a", "y", 1), ("b", "z", 2), ("b", "w", 2)]
    expected = {"b": ["z", "w", "x"], "a": ["y"]}
    seconds = {"b": [2.0, 2.0, 3.0], "a": [1.0]}
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    assert from_frame(frame) == (expected, seconds)
    begin = 1577836800.0
    dated = frame.with_columns(timestamp=day + pl.duration(seconds=pl.col("timestamp")))
    in_2020 = {user: [begin + t for t in times] for user, times in seconds.items()}
    assert from_frame(dated) == (expected, in_2020)
    (tmp_path / "a.csv").write_text(
        "user,item,timestamp\n" + "".join(f"{u},{i},2020-01-01T00:00:0{t}\n" for u, i, t in rows)
    )
    assert read_histories(str(tmp_path / "a.csv")) == (expected, in_2020)


def test_items_of_a_file(tmp_path):
    for text, expected in {
        "item_id\n5\na b\n": ["5", "a b"],
        "5\n6\n": ["5", "6"],
        "item,name\n5,five\n6,six\n": ["5", "6"],
        '["a,b", " c"]': ["a,b", " c"],
    }.items():
        (tmp_path / "items").write_text(text)
        assert read_ids(str(tmp_path / "items")) == (expected, None)
    (tmp_path / "pairs.csv").write_text("user,item\nu1,5\nu2,6\n")
    assert read_ids(str(tmp_path / "pairs.csv")) == (["5", "6"], ["u1", "u2"])


def test_titles_of_a_file(tmp_path):
    expected = {"1": "Toy Story (1995)", "7": "Café (1996)"}
    texts = {
        "titles.csv": 'item,title\n1,"Toy Story (1995)"\n7,Café (1996)\n',
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),A|B\n7,Café (1996),C\n",
        "named.tsv": "name\tid\titem_id\nToy Story (1995)\t9\t1\nCafé (1996)\t9\t7\n",
        "movies.dat": "1::Toy Story (1995)::A|B\n7::Café (1996)::C\n",
        "long.csv": 'item,title\n1,"Toy Story (1995)"\n7,Café (1996)\n"a\nb",c\n',
        "u.item": "1|Toy Story (1995)|01-Jan-1995||x|0|0\n7|Café (1996)|01-Jan-1996||y|0|1\n",
    }
    for name, text in texts.items():
        latin = name in ("movies.dat", "u.item")
        (tmp_path / name).write_text(text, encoding="latin-1" if latin else "utf-8")
        more = {"a\nb": "c"} if name == "long.csv" else {}
        assert read_titles(tmp_path / name) == expected | more, name
    pl.DataFrame({"item": [1, 7], "title": list(expected.values())}).write_parquet(tmp_path / "a")
    assert read_titles(tmp_path / "a") == expected
    assert titles_by_id({1: "one", 7.0: 7, "x": None}.items()) == {"1": "one", "7": "7", "7.0": "7"}


def test_columns_of_pandas(sequences):
    pd = pytest.importorskip("pandas")
    times = [pd.Timestamp("2020-01-01"), pd.NaT]
    for zone in (None, "UTC"):
        stamps = pd.Series(times).dt.tz_localize(zone)
        mixed = pd.DataFrame({"user": ["u", 7], "item": ["x", None], "timestamp": stamps})
        found = polars_frame(mixed)
        assert found.drop("timestamp").rows() == [("u", "x"), ("7", None)]
        assert found["timestamp"].to_list() == [datetime.datetime(2020, 1, 1), None]
        with pytest.raises(DataError, match="a row lacks its user, item or time"):
            from_frame(found)
        assert from_frame(found[:1]) == ({"u": ["x"]}, {"u": [1577836800.0]})
    for column in (pd.Series(["y", "x"]), pl.Series(["y", "x"])):
        assert of_lists(sequences, {"a": column}).items.tolist() == [2, 1]


def test_a_lazy_frame_is_read_without_a_warning(sequences):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = histories_of(pl.DataFrame({"user": ["u"]}).lazy(), sequences)
    assert found.items.tolist() == [1, 2]


TIMED = pl.DataFrame({"user": ["a"], "item": ["x"], "timestamp": [5]})


@pytest.mark.parametrize("of", [None, "u", ["u"], pl.DataFrame({"user": ["u"]}), TIMED])
def test_times_beside_those_who_have_their_own_are_refused(of, sequences):
    assert histories_of(of, sequences).items.tolist() in ([1, 2], [1])
    with pytest.raises(DataError, match="users of the data have their own, and a frame"):
        histories_of(of, sequences, times=[[1.0]])


def test_times_are_in_the_form_of_the_histories(sequences):
    for of, times in (([["x"]], [[5]]), ({"a": ["x"]}, {"a": [5]})):
        assert histories_of(of, sequences, times=times).times.tolist() == [5.0]
    with pytest.raises(DataError, match="times: expected a dictionary with the names"):
        histories_of({"a": ["x"], "b": ["y"]}, sequences, times=[5])
    with pytest.raises(DataError, match="times: expected a list of times for each history, got 5"):
        histories_of([["x"]], sequences, times=5)
    for of, times, other in (([["x"]], [[5], [6]], "1"), ({"a": ["x"]}, {"a": [5], "b": []}, "b")):
        with pytest.raises(DataError, match=f"times: {other} is the name of no history"):
            histories_of(of, sequences, times=times)
    assert histories_of({7: ["x"]}, sequences, times={7.0: [5]}).names.to_list() == ["7"]


def test_no_number_is_no_user(sequences, tmp_path):
    """NaN stands in pandas, and may in polars, where there is nothing."""
    columns = {"user": [1.0, float("nan")], "item": ["x", "y"]}
    frames = [pl.DataFrame(columns), pytest.importorskip("pandas").DataFrame(columns)]
    for frame in frames:
        with pytest.raises(DataError, match="a row lacks its user, item or time"):
            histories_of(frame, sequences)
        assert histories_of(frame[:1], sequences).names.to_list() == ["1"]
    (tmp_path / "file").write_text('[{"user": NaN, "items": ["x"]}]')
    assert read_histories(str(tmp_path / "file")) == ({"nan": ["x"]}, None)


@pytest.mark.parametrize("times", [{"a": 5}, {"a": "12"}, {"a": None}, {}])
def test_times_that_are_no_list_are_told(times, sequences):
    with pytest.raises(DataError, match="history a: expected a list of times"):
        of_lists(sequences, {"a": ["x", "y"]}, times)
    found = of_lists(sequences, {"a": ["y", "x"]}, {"a": ["2020-01-01", 5]})
    assert found.items.tolist() == [2, 1] and found.times.tolist() == [1577836800.0, 5.0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a,b\n1,2\n", "expected a column 'item'"),
        ("user,item\n1,\n", "lacks its user, item or time"),
        ('{"a": 1', "neither JSON nor JSON lines"),
        ("[3, [4]]", "expected lists of item ids"),
        ('[{"user": 1, "items": [1]}, {"user": "1", "items": [2]}]', "1 has two histories"),
        ('{"a": [1], "b": [2], "a": [3]}', "a stands twice in one object"),
        ('[{"items": [1], "times": [1]}, {"items": [2]}]', "history of 1 has no times"),
        ("user,item,timestamp\na,b,soon\n", "time 'soon': expected seconds"),
        ("", "is empty"),
        ("user,item\n", "file has no history"),
        ("[" * 20_000, "neither JSON nor JSON lines"),
        ('[{"user": null, "items": [1]}]', "user None: expected text or a number"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text, part, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(DataError, match=part):
        read_histories(str(tmp_path / "file"))
