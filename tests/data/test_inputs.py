"""Files, folders, patterns and archives; encodings, line ends and lists."""

import gzip
import io
import json
import zipfile

import polars as pl
import pytest
from support.logs import make_log, read, table, write

from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

LOG = make_log(users=30)
HEADER = ["user_id", "item_id", "timestamp"]
TEXT = table(LOG.rows, HEADER)


def parts(count=12):
    return [LOG.rows[k::count] for k in range(count)]


def test_folders_as_spark_writes_them(tmp_path):
    folder = tmp_path / "out.csv"
    folder.mkdir()
    for k, rows in enumerate(parts()):
        write(folder, table(rows, HEADER), f"part-{k:05d}-af01.csv")
        write(folder, b"crc", f".part-{k:05d}-af01.csv.crc")
    write(folder, "", "part-00099-af01.csv")  # a partition without rows
    write(folder, "", "_SUCCESS")
    assert read(folder) == LOG.sequences
    parquet = tmp_path / "parquet" / "day=1"
    parquet.mkdir(parents=True)
    for k, rows in enumerate(parts()):
        frame = pl.DataFrame(rows, schema=HEADER, orient="row")
        frame.write_parquet(parquet / f"part-{k}.snappy.parquet")
    frame.clear().write_parquet(parquet / "part-99.snappy.parquet")
    log = read_interactions(tmp_path / "parquet")
    assert read(tmp_path / "parquet") == LOG.sequences
    # part-2 stands before part-10.
    assert log.frame["item"].to_list() == [row[1] for rows in parts() for row in rows]
    assert "12 files pooled" in log.form


def test_patterns(tmp_path):
    for k, rows in enumerate(parts()):
        write(tmp_path, table(rows, HEADER), f"day{k}.csv")
    write(tmp_path, "something else", "notes.txt")
    assert read(f"{tmp_path}/*.csv") == LOG.sequences
    assert read(f"{tmp_path}/day[0-9].csv,{tmp_path}/day1[01].csv") == LOG.sequences
    with pytest.raises(DataError, match="no file fits this pattern"):
        read(f"{tmp_path}/*.parquet")
    with pytest.raises(DataError, match="files of different forms"):
        read(tmp_path)
    (tmp_path / "odd[1].csv").write_text(TEXT)  # a name that looks like a pattern
    assert read(tmp_path / "odd[1].csv") == LOG.sequences


def test_columns_of_pooled_files_may_stand_in_another_order(tmp_path):
    turned = [(t, i, u) for u, i, t in parts(2)[1]]
    write(tmp_path, table(parts(2)[0], HEADER), "a")
    write(tmp_path, table(turned, HEADER[::-1]), "b")
    assert read(tmp_path) == LOG.sequences


def pack_zstd(content):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(content)


def pack_zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._log.csv", b"\0\1")
        archive.writestr("folder/log.csv", content)
    return file.getvalue()


def in_two_members(content):
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:]) + b"\0" * 100


PACKERS = {
    "gzip": gzip.compress,
    "gzip in two members": in_two_members,
    "zip": pack_zip,
    "zip of gzip": lambda content: pack_zip(gzip.compress(content)),
    "zstd": pack_zstd,
    "bz2": __import__("bz2").compress,
    "xz": __import__("lzma").compress,
}


@pytest.mark.parametrize("name", PACKERS)
def test_packed_files(tmp_path, name):
    pack = PACKERS[name]
    path = write(tmp_path, pack(TEXT.encode()), "log")
    assert read(path) == LOG.sequences
    # What it unpacks to is limited, and the message prints the flag that allows it.
    path = write(tmp_path, pack(TEXT.encode() + b"\n" * 500_000), "large")
    with pytest.raises(DataError, match="unpacks to more than 0.0002 GB.*--max-unpacked 0.0004"):
        read(path, max_unpacked=0.0002)
    assert read(path, max_unpacked=0.0006) == LOG.sequences
    for cut in (10, len(path.read_bytes()) // 2):
        damaged = write(tmp_path, path.read_bytes()[:cut], "damaged")
        with pytest.raises(DataError) as caught:
            read(damaged)
        assert str(damaged) in str(caught.value) and "\n" not in str(caught.value)


def test_members_of_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr("ml/u.data", table(LOG.rows, separator="\t"))
        archive.writestr("ml/README", "What this is: nothing much")
    with pytest.raises(DataError):
        read(tmp_path / "ml.zip")
    assert read(tmp_path / "ml.zip" / "ml" / "u.data") == LOG.sequences
    with pytest.raises(DataError, match="u.dota does not exist; the archive has ml/README, ml/u.d"):
        read(tmp_path / "ml.zip" / "ml" / "u.dota")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = table(LOG.rows, HEADER, end=end)
    assert read(write(tmp_path, text.encode(encoding))) == LOG.sequences
    named = make_log(users=30, user="Zoë{}")
    content = table(named.rows, HEADER, end=end).encode(encoding)
    assert read(write(tmp_path, content)) == named.sequences


JSON = {
    "lines": "\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in LOG.rows),
    "lines with blank ones": "\n\n\n".join(
        json.dumps(dict(zip(HEADER, row, strict=True))) for row in LOG.rows
    ),
    "array": json.dumps([dict(zip(HEADER, row, strict=True)) for row in LOG.rows]),
    "indented array": json.dumps(
        [dict(zip(HEADER, row, strict=True)) for row in LOG.rows], indent=2
    ),
    "array in an object": json.dumps(
        {"events": [dict(zip(HEADER, row, strict=True)) for row in LOG.rows]}, indent=1
    ),
    "columns": json.dumps(dict(zip(HEADER, map(list, zip(*LOG.rows, strict=True)), strict=True))),
    "users and their lists": json.dumps(LOG.sequences),
    "a line a user": "\n".join(
        json.dumps({"user": user, "item_list": items}) for user, items in LOG.sequences.items()
    ),
    "fields that not all have": "\n".join(
        json.dumps({"extra": 1, **dict(zip(HEADER, row, strict=True))} if k % 3 else
                   dict(zip(HEADER, row, strict=True))) for k, row in enumerate(LOG.rows)
    ),
    "types that disagree": "\n".join(
        json.dumps({**dict(zip(HEADER, row, strict=True)), "note": [1, "a", None, 2.5][k % 4]})
        for k, row in enumerate(LOG.rows)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_json(tmp_path, name):
    assert read(write(tmp_path, JSON[name])) == LOG.sequences


def test_json_columns_come_from_all_records(tmp_path):
    records = [dict(zip(HEADER, row, strict=True)) for row in LOG.rows]
    for k in range(3):
        del records[k]["timestamp"]
    log = read_interactions(write(tmp_path, "\n".join(map(json.dumps, records))))
    assert log.frame["timestamp"].to_list() == [t * 10**9 for _, _, t in LOG.rows[3:]]
    assert f"left out 3 of {len(records)} rows: the timestamp is missing" in log.notes


def test_lists_of_items(tmp_path):
    histories = {user: items[k % 4 :] for k, (user, items) in enumerate(LOG.sequences.items())}
    frame = pl.DataFrame({"user": list(histories), "items": list(histories.values())})
    frame.write_parquet(tmp_path / "parquet")
    assert read(tmp_path / "parquet") == histories
    texts = {
        "blanks": table([(u, " ".join(i)) for u, i in histories.items()], separator="\t"),
        "commas in quotes": table([(u, ",".join(i)) for u, i in histories.items()]),
        "bars": table([(u, "|".join(i)) for u, i in histories.items()], ["user_id", "items"]),
        "brackets": table([(u, str(i)) for u, i in histories.items()], ["user_id", "item_ids"]),
        "JSON in CSV": table([(u, json.dumps(i)) for u, i in histories.items()], ["user", "items"]),
    }
    for name, text in texts.items():
        assert read(write(tmp_path, text, name)) == histories, name


def test_lists_of_items_with_lists_of_times(tmp_path):
    records = [
        {"user": user, "items": items, "timestamps": [1_600_000_000 - k for k in range(len(items))]}
        for user, items in LOG.sequences.items()
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, records)))
    assert read(path) == {user: items[::-1] for user, items in LOG.sequences.items()}
    records[3]["timestamps"].pop()
    path = write(tmp_path, "\n".join(map(json.dumps, records)))
    with pytest.raises(DataError, match="line 4: the lists of items and of the timestamp differ"):
        read(path)


def test_recbole_lists_with_the_item_that_comes_next(tmp_path):
    header = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    rows = "1\t5 6\t7\n2\t5\t6\n2\t5 6\t8\n2\t5 6 8\t9\n"  # session 2 with all its beginnings
    assert read(write(tmp_path, header + rows)) == {"1": ["5", "6", "7"], "2": ["5", "6", "8", "9"]}


def test_sessions_that_go_on_in_the_next_file_stay_one(tmp_path):
    # Numbered anew: nearly every number is in both files. Going on: few are.
    for first, expected in ((0, 40), (18, 38)):
        a = [(s, k, 100 + k) for s in range(20) for k in range(5)]
        b = [(first + s, k, 200 + k) for s in range(20) for k in range(5)]
        for name, rows in (("a.csv", a), ("b.csv", b)):
            write(tmp_path, table(rows, ["session_id", "item_id", "timestamp"]), name)
        assert len(read(f"{tmp_path}/a.csv,{tmp_path}/b.csv")) == expected
