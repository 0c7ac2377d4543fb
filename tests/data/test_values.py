"""What is missing, blanks and quotes around values, parts of the rows, doubles and ties."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from support.logs import make_log, read, remedies, table, write

from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.where import conditions
from rka_fast.errors import DataError, printable

LOG = make_log(users=30)
HEADER = ["user_id", "item_id", "timestamp"]


def without(rows):
    kept = make_log(users=1)
    kept.rows = rows
    return kept.sequences


@pytest.mark.parametrize("word", ["", "NA", "NaN", "null", "None", "N/A", "<NA>", r"\N", " ", '""'])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_missing_is_left_out_and_said(tmp_path, word, place):
    rows = [list(row) for row in LOG.rows]
    for row in rows[::4]:
        row[place] = word
    text = "\n".join(",".join(map(str, row)) for row in [HEADER, *rows])
    path = write(tmp_path, text)
    kept = [row for k, row in enumerate(LOG.rows) if k % 4]
    assert read(path) == without(kept)
    log = read_interactions(path)
    role = ["user", "item", "timestamp"][place]
    assert f"left out 60 of 240 rows: the {role} is missing" in log.notes
    with pytest.raises(DataError, match=f"the {role} .*missing in 60 of 240 rows, more than"):
        read_interactions(path, max_missing=0.2)


def test_another_column_is_taken_where_most_users_are_missing(tmp_path):
    rows = [(u, "NA" if k % 10 else f"p{k}", i, t) for k, (u, i, t) in enumerate(LOG.rows)]
    path = write(tmp_path, table(rows, ["session_id", "user_id", "item_id", "timestamp"]))
    log = read_interactions(path)
    assert read(path) == LOG.sequences
    assert "user_id is missing in 90% of the rows, so session_id is taken as the user" in log.notes
    only = write(tmp_path, table([row[1:] for row in rows], ["user_id", "item_id", "timestamp"]))
    too_many = "missing in 216 of 240 rows, more than --max-missing 0.5"
    with pytest.raises(DataError, match=too_many) as refused:
        read_interactions(only)
    assert remedies(refused.value)[-1] == "--max-missing 0.9"
    assert read(only, max_missing=0.9) == without(
        [(user, i, t) for _, user, i, t in rows if user != "NA"]
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_blanks_and_quotes_around_ids_are_no_part_of_them(tmp_path, separator):
    text = ""
    for k, (user, item, time) in enumerate(LOG.rows):
        user = [user, f" {user}", f'"{user}"', f"{user}  "][k % 4]
        item = [item, f'"{item}"', f' "{item}"', f" {item}"][k // 2 % 4]
        text += separator.join((user, item, str(time))) + "\n"
    assert read(write(tmp_path, text)) == LOG.sequences


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize(
    "name", ['12" single {}', '{}"', 'the "best" of {}', "5' 7\" {}", '"Heroes" {}']
)
def test_inch_marks_and_quotes_inside_stay(tmp_path, separator, name):
    log = make_log(users=30, item=name)
    text = separator.join(HEADER) + "\n"
    text += "".join(f"{u}{separator}{i}{separator}{t}\n" for u, i, t in log.rows)
    assert read(write(tmp_path, text)) == log.sequences
    # Beside fields that are quoted, with separators and doubled quotes in them.
    quoted = f'"a {separator} ""b"""'
    text += f"u0{separator}{quoted}{separator}1700000000\n"
    expected = {**log.sequences, "u0": [*log.sequences["u0"], f'a {separator} "b"']}
    assert read(write(tmp_path, text)) == expected


def test_quotes_over_several_lines(tmp_path):
    text = table([(u, f"{i}\nsecond line", t) for u, i, t in LOG.rows], HEADER)
    expected = {u: [f"{i}\nsecond line" for i in items] for u, items in LOG.sequences.items()}
    assert read(write(tmp_path, text)) == expected


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators_inside_of_ids(tmp_path, separator):
    other = {",": ";", "\t": "::", ";": ",", "|": ","}[separator]
    log = make_log(users=30, user=f"u{other}{{}}", item=f"{{}}{other}{other}i")
    text = "".join(separator.join(map(str, row)) + "\n" for row in log.rows)
    assert read(write(tmp_path, text)) == log.sequences


@pytest.mark.parametrize("prefix", ["#", "%", "//"])
def test_comment_lines_are_skipped(tmp_path, prefix):
    text = (
        f"{prefix} exported by shop, on Monday\n{prefix}\n{table(LOG.rows, HEADER)}{prefix} end\n"
    )
    log = read_interactions(write(tmp_path, text))
    assert read(tmp_path / "log") == LOG.sequences
    assert f"skipped 3 lines that begin with {prefix}" in log.notes
    ids = make_log(users=30, user=prefix + "{}")  # ids may begin like comments
    assert read(write(tmp_path, table(ids.rows))) == ids.sequences


def test_two_ways_to_write_an_id_are_told(tmp_path):
    rows = [(k % 5 if k % 2 else f"{k % 5}.0", f"i{k % 7}") for k in range(40)]
    log = read_interactions(write(tmp_path, table(rows, HEADER[:2])))
    assert log.warnings == [
        "5 users are written in two ways, such as 0.0 and 0, and count as two; write them alike"
    ]


def test_parquet_ids(tmp_path):
    frame = pl.DataFrame(
        {"user_id": [1.0, 2.0, None, float("nan")], "item_id": [b"a", b"b", b"c", b"d"]}
    )
    frame.write_parquet(tmp_path / "log")
    assert read_interactions(tmp_path / "log").frame.rows() == [("1", "a"), ("2", "b")]
    for odd in ([{"a": 1}] * 4, [b"\xff\xfe"] * 4):
        frame.with_columns(item_id=pl.Series(odd)).write_parquet(tmp_path / "log")
        with pytest.raises(DataError, match="column item_id of type .* cannot be ids") as caught:
            read_interactions(tmp_path / "log")
        assert "\n" not in str(caught.value)


def test_lengths_of_time_are_no_times(tmp_path):
    rows = {"user": ["1", "1", "2"], "item": ["a", "b", "c"], "time": [timedelta(seconds=9)] * 3}
    pl.DataFrame(rows).write_parquet(tmp_path / "log")
    with pytest.raises(DataError, match="time holds no times such as 0:00:09") as refused:
        read_interactions(tmp_path / "log")
    assert remedies(refused.value) == ["--columns user,item"]
    with pytest.raises(DataError, match="'0:00:09' does not belong to seconds since 1970"):
        read_interactions(tmp_path / "log", time_format="s")
    log = read_interactions(tmp_path / "log", time_format="number")
    assert len(log.frame) == 3 and log.frame["timestamp"].n_unique() == 1


KINDS = ("view", "cart, gift", "buy")


def kinds():
    return [(u, i, t, KINDS[t % 3], t % 10 / 2) for u, i, t in LOG.rows]


WHERE = {
    "kind=buy": lambda k, p, t: k == "buy",
    "kind!=buy": lambda k, p, t: k != "buy",
    "kind=cart, gift": lambda k, p, t: k == "cart, gift",
    "price>=3": lambda k, p, t: p >= 3,
    "price<1.5, kind = view": lambda k, p, t: p < 1.5 and k == "view",
    "price=2": lambda k, p, t: p == 2,
    "price>1,price<=4": lambda k, p, t: 1 < p <= 4,
    "4>1": lambda k, p, t: p > 1,  # by position
}


@pytest.mark.parametrize("where", WHERE)
def test_where_keeps_a_part_of_the_rows(tmp_path, where):
    path = write(tmp_path, table(kinds(), [*HEADER, "kind", "price"]))
    kept = [row[:3] for row in kinds() if WHERE[where](row[3], row[4], row[2])]
    assert read(path, where=where) == without(kept)
    (note,) = (n for n in read_interactions(path, where=where).notes if n.startswith("where"))
    assert note.endswith(f": {len(kept)} of {len(LOG.rows)} rows")


def test_where_compares_dates(tmp_path):
    rows = [
        (u, i, f"2020-{1 + k % 12:02d}-{1 + k % 28:02d}") for k, (u, i, _) in enumerate(LOG.rows)
    ]
    path = write(tmp_path, table(rows, ["user", "item", "day"]))
    log = read_interactions(path, where="day>=2020-06-01")
    assert len(log.frame) == sum(day >= "2020-06-01" for _, _, day in rows)


def test_faults_of_where(tmp_path):
    path = write(tmp_path, table(kinds(), [*HEADER, "kind", "price"]))
    for where, message in (
        ("event=buy", "no column event; the columns are user_id, item_id, timestamp, kind, price"),
        ("9=buy", "no column 9"),
        ("kind", "expected COLUMN=VALUE"),
        ("kind=sold", "no row is left; kind has values such as"),
        ("price>much", "compares numbers, or dates"),
    ):
        with pytest.raises(DataError, match=message):
            read_interactions(path, where=where)
    assert conditions(None) == []


def sequences(path, **filters):
    return build_sequences(read_interactions(path), Filters(**filters))


def test_equal_rows_count_once(tmp_path):
    path = write(tmp_path, table(LOG.rows * 2, HEADER))
    _, report = sequences(path)
    assert (report.events, report.dropped[0].events) == (240, 240)
    assert "dropped by duplicates=drop: 240 events, 0 users, 0 items" in report.lines()
    assert sequences(path, duplicates="keep")[1].events == 480
    # Equal but for the time, or with an item between: these are people's repeats.
    rows = [("a", "x", 5), ("a", "y", 5), ("a", "x", 5), ("a", "x", 6), ("b", "x", 5)]
    path = write(tmp_path, table(rows, ["user", "item", "timestamp"]))
    log, report = sequences(path)
    assert log.lengths.tolist() == [3, 1] and report.repeated == 0
    # Without times they are only told.
    path = write(tmp_path, table([row[:2] for row in LOG.rows for _ in range(2)], HEADER[:2]))
    _, report = sequences(path)
    assert report.events == 480 and report.repeated >= 240 and not report.dropped
    assert any(line.endswith("events have the item of the one before") for line in report.lines())


def tied(order):
    """60 users with 8 items a day each, of 130, in some order of the ids."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        for day in range(2):
            items = rng.choice(130, 8, replace=False)
            for item in order(items):
                rows.append((f"u{user}", int(item), f"2020-01-0{day + 1}"))
    return rows


@pytest.mark.parametrize(
    ("order", "warned"),
    [(np.sort, True), (lambda items: -np.sort(-items), True), (lambda items: items, False)],
)
def test_ties_in_the_order_of_ids_are_warned_of(tmp_path, order, warned):
    path = write(tmp_path, table(tied(order), ["user", "item", "date"]))
    log, report = sequences(path)
    assert report.ties == 60 * 2 * 7 and report.tied_targets == 60
    assert any("840 events (88%) tie" in line and "60 of 60" in line for line in report.lines())
    lines = [line for line in report.lines() if line.startswith("warning: ")]
    assert bool(lines) == warned and all("--ties shuffle" in line for line in lines)
    shuffled, report = sequences(path, ties="shuffle", seed=1)
    assert not report.warnings and report.ties == 840
    assert (shuffled.items != log.items).any()
    same = sequences(path, ties="shuffle", seed=1)[0]
    assert (shuffled.items == same.items).all()
    assert (shuffled.items != sequences(path, ties="shuffle", seed=2)[0].items).any()
    for user in range(60):  # only inside of a tie
        for half in (slice(0, 8), slice(8, 16)):
            assert set(shuffled.sequence(user)[half]) == set(log.sequence(user)[half])
    first, report = sequences(path, ties="drop")
    assert report.ties == 0 and (first.lengths == 2).all()
    assert [first.item_id(i) for i in first.items] == [log.item_id(i) for i in log.items[::8]]
    assert report.dropped[0].rule == "ties=drop"


def test_messages_print_ids_harmlessly(tmp_path):
    assert printable("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert printable("a\nb\u202ec") == r"a\nb\u202ec"
    assert printable("x" * 100, 10) == "xxxxxxxxx…"
    log = make_log(users=30, user="\x1b[31mu{}\x1b[0m")
    path = write(tmp_path, table(log.rows, HEADER))
    assert read(path) == log.sequences  # ids themselves stay
    with pytest.raises(DataError, match=r"unknown user id 'nobody'; ids look like \\x1b\[31mu"):
        sequences(path)[0].user_index("nobody")
    rows = [("\x1b[2J", "a", "b", "c", "d", "e")] * 3
    with pytest.raises(DataError) as caught:
        read_interactions(write(tmp_path, table(rows)))
    assert "\x1b" not in str(caught.value)
