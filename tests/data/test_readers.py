"""Every form of log is told by its content; every fault is named with its place."""

import gzip
import json
from datetime import datetime, timezone

import polars as pl
import pytest

from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

EVENTS = [
    ("007", "b", 4.5, 978300760),
    ("x", "a", 3.0, 978302109),
    ("007", "a", 1.0, 978301968),
]
SECOND = 10**9  # times are read in nanoseconds
PAIRS = [(user, item) for user, item, _, _ in EVENTS]
JSON = [
    {"reviewerID": u, "asin": i, "helpful": [0, 1], "overall": r, "unixReviewTime": int(t)}
    for u, i, r, t in EVENTS
]


def lines(separator, keep=(0, 1, 2, 3), header=None, end="\n"):
    rows = [[str(event[k]) for k in keep] for event in EVENTS]
    return end.join(separator.join(row) for row in ([header] if header else []) + rows) + end


def write(folder, content, name="log"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pairs(log):
    return log.frame.select("user", "item").rows()


FORMS = {
    "TSV without header: columns user, item, rating, timestamp": lines("\t"),
    "table separated by '::' without header: columns user, item, rating, timestamp": lines("::"),
    "MovieLens ratings.csv: columns userId, movieId, rating, timestamp": lines(
        ",", header=["userId", "movieId", "rating", "timestamp"], end="\r\n"
    ),
    "RecBole .inter: columns user_id:token, item_id:token, rating:float, timestamp:float": lines(
        "\t", header=["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    ),
    "CSV without header: columns user, item, rating, timestamp": lines(","),
    "CSV without header: columns user, item, timestamp": lines(",", (0, 1, 3)),
    "CSV without header: columns user, item, timestamp, rating": lines(",", (0, 1, 3, 2)),
    "CSV without header: columns user, item, rating": lines(",", (0, 1, 2)),
    "CSV without header: columns user, item": lines(",", (0, 1)),
    "table separated by spaces without header: columns user, item": lines(" ", (0, 1)),
    "TSV with header: columns visitorid, Item-ID, time": lines(
        "\t", (3, 1, 0), header=["time", "Item-ID", "visitorid"]
    ),
    "Amazon reviews, JSON lines: columns reviewerID, asin, overall, unixReviewTime": "\n".join(
        map(json.dumps, JSON)
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [False, True])
def test_forms_are_told_by_content(tmp_path, form, zipped):
    content = FORMS[form].encode()
    # The name says nothing: a plain file may end in .gz and a zipped one may not.
    path = write(
        tmp_path, gzip.compress(content) if zipped else content, "a.csv" if zipped else "a.gz"
    )
    log = read_interactions(path)
    assert log.form == form
    assert pairs(log) == PAIRS  # ids as they stand, "007" included
    if "rating" in log.frame.columns:
        assert log.frame["rating"].to_list() == [rating for _, _, rating, _ in EVENTS]
    if "timestamp" in log.frame.columns:
        assert log.frame["timestamp"].to_list() == [time * SECOND for _, _, _, time in EVENTS]
    assert ("timestamp" in log.frame.columns) == ("time" in form.lower().partition("columns")[2])


def test_parquet(tmp_path):
    path = tmp_path / "log"
    pl.DataFrame(
        {
            "date": [
                datetime(2020, 1, 1, tzinfo=timezone.utc),
                datetime(2020, 1, 2, tzinfo=timezone.utc),
            ],
            "user_id": [7, 8],
            "item_id": ["b", "a"],
        }
    ).write_parquet(path)
    log = read_interactions(path)
    assert log.form == "Parquet: columns user_id, item_id, date"
    assert log.frame.rows() == [
        ("7", "b", 1577836800 * SECOND),
        ("8", "a", 1577923200 * SECOND),
    ]


def test_one_user_a_line(tmp_path):
    log = read_interactions(write(tmp_path, "u1 9 2 9\nu2 4\n\nu3 1 2 3 4 5\n"))
    assert pairs(log) == [
        *(("u1", i) for i in "929"),
        ("u2", "4"),
        *(("u3", i) for i in "12345"),
    ]
    assert log.form == "one user a line: columns user, item, item, ..." and log.ordered


def test_counted_lists_are_recognised_and_have_no_order(tmp_path):
    rows = [list(range(start, start + size)) for start, size in ((3, 9), (95, 12), (1, 7))]
    text = "".join(f"{len(row)} {' '.join(map(str, row))}\n" for row in rows)
    log = read_interactions(write(tmp_path, text))
    assert log.form.startswith("one user a line: columns count, item")
    assert pairs(log) == [(str(u), str(i)) for u, row in enumerate(rows, 1) for i in row]
    assert not log.ordered  # 95..106 is sorted as numbers, not as strings
    rows[0].reverse()
    text = "".join(f"{len(row)} {' '.join(map(str, row))}\n" for row in rows)
    assert read_interactions(write(tmp_path, text)).ordered


def test_a_few_sorted_events_are_no_sign_of_missing_order(tmp_path):
    assert read_interactions(write(tmp_path, "a 1\na 2\nb 1\nb 3\n")).ordered
    sorted_log = "".join(f"{user},{item}\n" for user in "abc" for item in range(8, 18))
    assert not read_interactions(write(tmp_path, sorted_log)).ordered


def test_sessions_are_keyed_by_file(tmp_path):
    header = "\tItemId\tTime\tSessionId\titem_idx\tsess_idx\n"
    for part, item in (("train", 5), ("valid", 6), ("test", 7)):
        content = f"{header}0\t{item}\t10.0\t0\t1\t0\n1\t{item + 1}\t11.0\t0\t2\t0\n"
        write(tmp_path, gzip.compress(content.encode()), f"hcrnn_{part}.txt.gz")
    log = read_interactions(tmp_path)
    assert pairs(log)[:3] == [
        ("hcrnn_train:0", "5"),
        ("hcrnn_train:0", "6"),
        ("hcrnn_valid:0", "6"),
    ]
    assert log.form == "TSV with header: columns SessionId, ItemId, Time (3 files pooled)"
    files = [tmp_path / f"hcrnn_{part}.txt.gz" for part in ("train", "valid", "test")]
    for same in (files, ",".join(map(str, files))):
        assert pairs(read_interactions(same)) == pairs(log)
    assert pairs(read_interactions(files[0])) == [("0", "5"), ("0", "6")]


def test_users_of_several_files_are_the_same_people(tmp_path):
    files = [write(tmp_path, "a 1\nb 2\n", "one"), write(tmp_path, "a 3\n", "two")]
    assert pairs(read_interactions(files)) == [("a", "1"), ("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("t,n,u\n5,i1,a\n6,i2,b\n", ["u", "n", "-", "t"], [("a", "i1", 5.0), ("b", "i2", 6.0)]),
        ("5,i1,a\n6,i2,b\n", ["2", "1", "-", "0"], [("a", "i1", 5.0), ("b", "i2", 6.0)]),
        (
            "5,x,i1,a\n6,x,i2,b\n",
            ["timestamp", "-", "item", "user"],
            [("a", "i1", 5.0), ("b", "i2", 6.0)],
        ),
        ("a 5 i1\nb 6 i2\n", ["user", "timestamp", "item"], [("a", "i1", 5.0), ("b", "i2", 6.0)]),
        ('{"t": 5, "n": "i1", "u": 1}\n', ["u", "n", "-", "t"], [("1", "i1", 5.0)]),
    ],
)
def test_columns_override_detection(tmp_path, content, columns, expected):
    frame = read_interactions(write(tmp_path, content), columns).frame
    assert frame.select("user", "item", "timestamp").rows() == expected


def test_dates_become_seconds(tmp_path):
    stamps = ["2011-11-05", "2011-11-05 10:00:01", "2011-11-05T10:00:01.5Z"]
    text = "user,item,posted\n" + "".join(f"a,{k},{s}\n" for k, s in enumerate(stamps))
    start = datetime(2011, 11, 5, tzinfo=timezone.utc).timestamp().__int__()
    assert read_interactions(write(tmp_path, text)).frame["timestamp"].to_list() == [
        start * SECOND,
        (start + 36001) * SECOND,
        (start + 36001) * SECOND + SECOND // 2,
    ]


def test_quotes_blank_lines_and_latin_1(tmp_path):
    content = 'user,item\n"a, b",1\n\nJosé,2\n'.encode("latin-1")
    assert pairs(read_interactions(write(tmp_path, content))) == [("a, b", "1"), ("José", "2")]


FAULTS = {
    "is empty": b"",
    "is empty ": b"\n\n",
    "is a damaged gzip file": b"\x1f\x8b\x08\x00broken",
    "is a damaged Parquet file": b"PAR1 and nothing more",
    "is neither text nor Parquet": b"\x00\x01\x02 1\n",
    "has a header but no interactions": b"userId,movieId,rating,timestamp\n",
    "line 3: expected 4 columns separated by commas, got 3": b"a,1,5,978300760\n" * 2 + b"c,1,5\n",
    "line 2: expected 2 columns separated by commas, got 3": b"a,1\nb,1,5\nc,1\nd,1\n",
    "line 5: expected 2 columns separated by spaces, got 1": b"a 1\na 2\n\nb 1\nb\n"
    + b"b 1\n" * 20,
    "line 4: rating 'good' is not a number; .*--columns": (
        b"user,item,rating\na,1,5\n\nb,1,good\n"
    ),
    "time mixes times: 10 in .*line 2 .a number., but noon in .*line 3 .*--columns user,item": (
        b"user,item,time\na,1,10\nb,1,noon\n"
    ),
    "the columns are w, x, z.: --columns w,x or --columns x,w": b"w,x,z\na,1,5\nb,2,3\n",
    "the item .item. is missing in 2 of 3 rows, more than --max-missing 0.5": (
        b"user,item\na,1\nb,\nb,NA\n"
    ),
    "line 2: the count in front is 4, but 2 items follow": b"3 1 5 6\n4 7 8\n",
    "line 2: not a JSON object": b'{"user": 1, "item": 2}\n{"user": 1, "it\n',
    "line 3: not a JSON object: NaN is no value of JSON; write null": (
        b'{"user": 1, "item": 2}\n\n{"user": 1, "item": 2, "rating": NaN}\n'
    ),
    "not JSON: -Infinity is no value of JSON; write null": (
        b'[{"user": 1, "item": 2}, {"user": 1, "item": 2, "rating": -Infinity}]'
    ),
    "line 2: rating 'x' is not": (
        b'{"user":1,"item":2,"rating":1}\n{"user":1,"item":2,"rating":"x"}\n'
    ),
    "read as JSON: cannot tell .*are who, item.: --columns who,item": (b'{"who": 1, "item": 2}\n'),
    r"'\|' without header: cannot .*5 columns without header, such as a, 1, 5, 10, 3.: --columns": (
        b"a|1|5|10|3\nb|1|5|10|3\n"
    ),
    "cannot tell .*the columns are movieId, title.: --columns title,movieId": (
        b"movieId,title\n1,x\n"
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(tmp_path, message):
    content = FAULTS[message]
    if message.startswith("line 2: the count"):  # a count form needs most of its lines to say so
        content = b"".join(b"2 1 2\n3 1 2 3\n" for _ in range(250)) + content
        message = "line 502: the count in front is 4, but 2 items follow"
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message.strip()) as caught:
        read_interactions(path)
    assert str(path) in str(caught.value)


def test_faults_of_paths_and_columns(tmp_path):
    path = write(tmp_path, "userId,movieId\n1,2\n2,2\n")
    with pytest.raises(DataError, match="nowhere.csv does not exist"):
        read_interactions(tmp_path / "nowhere.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty is a folder without a data file"):
        read_interactions(tmp_path / "empty")
    with pytest.raises(DataError, match="no data file"):
        read_interactions([])
    with pytest.raises(DataError, match="no column person; the header has userId, movieId"):
        read_interactions(path, ["person", "movieId"])
    with pytest.raises(DataError, match="no column 5; the file has 2, counted from 0"):
        read_interactions(path, ["0", "5"])
    with pytest.raises(DataError, match="user and item are needed"):
        read_interactions(path, ["userId"])
    with pytest.raises(DataError, match="different forms: .*log is CSV.*other is table"):
        read_interactions([path, write(tmp_path, "1 2\n", "other")])
    others = "".join(f"{k} 1 2\n{k}x 1 2 3\n" for k in range(250))
    with pytest.raises(DataError, match="line 502: read as one user a line, but user a has more"):
        read_interactions(write(tmp_path, f"a 1 2\n{others}a 3\n"), form="user-items")


README = {
    "sasrec/video_sasrec.txt.gz": (31_013, 23_715, 287_107, "table separated by spaces"),
    "sasrec/ml-1m_sasrec.txt.gz": (6_040, 3_416, 999_611, "table separated by spaces"),
    "sasrec/beauty_lrurec.txt.gz": (52_204, 57_289, 394_908, "table separated by spaces"),
    "sasrec/beauty_bert4rec.txt.gz": (40_226, 54_542, 353_962, "table separated by spaces"),
    "citeulike": (1_798, 1_980, 49_662, "TSV with header"),
    "citeulike/citeulike-a_users.dat.gz": (5_551, 16_980, 204_986, "one user a line"),
    "ml-100k/u.data.gz": (943, 1_682, 100_000, "TSV without header"),
    "ml-latest-small/ratings.csv": (610, 9_724, 100_836, "MovieLens ratings.csv"),
    "ml-1m/ml-1m_full_seq.txt.gz": (6_040, 3_706, 1_000_209, "one user a line"),
    "recbole/ml-100k.inter.gz": (943, 1_682, 100_000, "RecBole .inter"),
    "s3rec/Beauty.txt.gz": (22_363, 12_101, 198_502, "one user a line"),
    "s3rec/Sports_and_Outdoors.txt.gz": (35_598, 18_357, 296_337, "one user a line"),
    "amazon/ratings_Musical_Instruments_5.csv.gz": (1_429, 900, 10_261, "CSV without header"),
    "amazon/reviews_Musical_Instruments_5.json.gz": (
        1_429,
        900,
        10_261,
        "Amazon reviews, JSON lines",
    ),
    "amazon/beauty_5core_user_item_time.csv.gz": (22_363, 12_101, 198_502, "CSV without header"),
    "steam/steam_au_reviews.csv.gz": (22_825, 2_897, 49_070, "CSV with header"),
}


@pytest.mark.parametrize("name", README)
def test_real_files_have_their_published_counts(shared_data, name):
    users, items, events, form = README[name]
    log = read_interactions(shared_data / name)
    frame = log.frame
    assert (frame["user"].n_unique(), frame["item"].n_unique(), len(frame)) == (
        users,
        items,
        events,
    )
    assert log.form.startswith(form)
    assert log.ordered == ("citeulike-a" not in name)


def test_a_third_column_of_large_numbers_is_no_time(tmp_path):
    log = read_interactions(write(tmp_path, b"a,x,300\na,y,200\nb,x,101\n"))
    assert log.frame.columns == ["user", "item"]
    log = read_interactions(write(tmp_path, b"a,x,3\na,y,2\nb,x,5\n"))
    assert log.frame.columns == ["user", "item", "rating"]
