"""Files that are large, deep, broken or meant to harm are told in one line."""

import re

import numpy as np
import polars as pl
import pytest
from support.logs import make_log, read, table, write

from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError
from rka_fast.training.flags import parse

LOG = make_log(users=30)
HEADER = ["user_id", "item_id", "timestamp"]
TEXT = table(LOG.rows, HEADER)


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000 and message.isprintable()
    assert path.name in message
    return message


@pytest.mark.parametrize("blank", ["\n", "   \n", "\t\n", "\r\n"])
def test_blank_lines_first_and_between(tmp_path, blank):
    assert read(write(tmp_path, blank * 5_000 + TEXT)) == LOG.sequences
    assert read(write(tmp_path, TEXT.replace("\n", "\n" + blank, 70))) == LOG.sequences
    # Lines keep their numbers.
    path = write(tmp_path, blank * 700 + TEXT + "u1,i1\n")
    assert f"line {700 + 1 + len(LOG.rows) + 1}: expected 3 columns" in refusal(path)


@pytest.mark.parametrize("place", [0, 5, 200_000])
def test_a_quote_that_is_never_closed(tmp_path, place):
    lines = [f"u{k % 700},i{k % 300},{1_600_000_000 + k}" for k in range(200_001)]
    lines[place] = f'u1,"i1,{1_600_000_000 + place}'
    path = write(tmp_path, ",".join(HEADER) + "\n" + "\n".join(lines) + "\n")
    assert f"line {place + 2}: a quote is opened and not closed" in refusal(path)


@pytest.mark.parametrize("mark", ["", '"'])
def test_a_very_long_field(tmp_path, mark):
    name = "x" * 300_000
    path = write(tmp_path, TEXT + f"u1,{mark}{name}{mark},1700000000\n")
    assert read(path)["u1"][-1] == name


@pytest.mark.parametrize("content", ["{" * 10**5, "[" * 10**5, '{"user":' + "[" * 10**5])
def test_deep_json(tmp_path, content):
    refusal(write(tmp_path, content))


def test_json_that_ends_early_or_holds_other_things(tmp_path):
    for content in ("{", "[", "[1, 2]", '{"user": 1', '"text"', "[[1, 2], [3, 4]]", '{"a": {}}'):
        refusal(write(tmp_path, content))


def test_very_many_columns(tmp_path):
    assert "1,000,000 columns" in refusal(write(tmp_path, ",".join(["1"] * 10**6) + "\n"))
    names = [f"a{k}" for k in range(900)]
    message = refusal(write(tmp_path, table([range(900)] * 3, names)))
    assert "a0, a1" in message and "888 more" in message


@pytest.mark.parametrize(
    "columns",
    [
        "²,1",
        "1,1",
        "0,99999999999999999999",
        "0,-1",
        "user,user",
        ",",
        "-,-",
        "user,item,timestamp,timestamp,timestamp",
    ],
)
def test_columns_that_cannot_be(tmp_path, columns):
    path = write(tmp_path, TEXT)
    with pytest.raises(DataError, match="columns="):
        read_interactions(
            path, parse(["--data", str(path), "--columns", columns]).config.column_names
        )


def test_other_files(tmp_path):
    heads = [b"\x89PNG\r\n\x1a\n\0\0", b"%PDF-1.7\n", b"PK\x03\x04", b"\x1f\x8b", b"BZh9xx"]
    heads += [b"\x28\xb5\x2f\xfdxx", b"\xfd7zXZ\0", b"PAR1", b"SQLite format 3\0"]
    for content in heads:
        refusal(write(tmp_path, content))


def test_damaged_parquet(tmp_path, capfd):
    frame = pl.DataFrame(LOG.rows, schema=HEADER, orient="row")
    frame.write_parquet(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    told = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        data = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(4, len(data)))] ^= 1 << int(rng.integers(8))
        if seed % 5 == 0:
            del data[int(rng.integers(8, len(data))) :]
        path = write(tmp_path, bytes(data), "damaged")
        try:
            read(path)
        except DataError as error:
            told += 1
            assert "damaged" in str(error) or "--" in str(error), seed
            assert str(error).isprintable() and len(str(error)) < 1000, seed
    assert told > 20


def test_parquet_types_that_cannot_be(tmp_path):
    base = {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]}
    for name, values in (
        ("user_id", [{"a": 1}, {"a": 2}]),
        ("user_id", [["a"], ["b"]]),
        ("item_id", [{"a": 1}, {"a": 2}]),
        ("timestamp", [{"a": 1}, {"a": 2}]),
        ("timestamp", [[1], [2]]),
        ("timestamp", [True, False]),
        ("timestamp", [b"a", b"b"]),
    ):
        pl.DataFrame({**base, name: values}).write_parquet(tmp_path / "log")
        assert re.search("cannot be|no times|lists", refusal(tmp_path / "log"))


def test_ids_with_letters_that_a_console_has_not(tmp_path, monkeypatch):
    import io
    import sys

    from rka_fast.commands import exit_status

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    path = write(tmp_path, "я,ю,э,ъ,ы\n" * 3)

    def run() -> int:
        read_interactions(path)
        return 0

    assert exit_status(run) == 2
    stream.flush()
    assert rb"\u044f" in stream.buffer.getvalue()
