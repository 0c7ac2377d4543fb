"""Logs in forms drawn by seed are read rightly or refused, never misread; damaged ones are told.

A failure names its seed: `pytest "tests/data/test_reading_fuzz.py::test_x[SEED]"`; with -m slow
there are more of them.
"""

import gzip
import json
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from support.logs import make_log, read, remedies, run_as_printed, table, write
from support.slow import slow

from rka_fast.errors import DataError

NAMES = {
    "user": [
        "user_id",
        "userId",
        "CustomerID",
        "visitorid",
        "uid",
        "session_id",
        "UserNo",
        "buyer",
    ],
    "item": ["item_id", "movieId", "StockCode", "asin", "product_id", "sku", "ItemKey", "track-id"],
    "time": ["timestamp", "ts", "InvoiceDate", "event_time", "when", "purchased", "Zeit", "t"],
    "rating": ["rating", "stars", "overall"],
    "kind": ["event", "type", "action", "label"],
    "price": ["price", "amount", "duration"],
    "category": ["category_id", "brand", "genre"],
}
WRITTEN = [
    lambda t: t,
    lambda t: t * 1000 + 17,
    lambda t: t * 10**6,
    lambda t: f"{t}.0",
    lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S"),
    lambda t: moment(t).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
    lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S UTC"),
    lambda t: moment(t).strftime("%a %b %d %H:%M:%S +0000 %Y"),
    lambda t: moment(t).strftime("%d.%m.%Y %H:%M:%S"),
    lambda t: moment(t).strftime("%m/%d/%Y %H:%M:%S"),
    lambda t: (moment(t) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S+02:00"),
    lambda t: moment(t).strftime("%Y%m%d%H%M%S"),
]
ORDERS = [  # without names: what is usual
    ["user", "item", "time"],
    ["user", "item", "rating", "time"],
    ["user", "item", "time", "rating"],
    ["user", "time", "item"],
    ["time", "user", "item"],
    ["user", "time", "item", "category"],
    ["time", "user", "kind", "item"],
    ["user", "item", "kind", "time"],
    ["user", "item", "price", "time"],
]


def moment(time):
    return datetime.fromtimestamp(time, timezone.utc)


def draw(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def cell(name, row, rng, written):
    user, item, time = row
    return {
        "user": user,
        "item": item,
        "time": written(time),
        "rating": float(rng.integers(1, 11)) / 2,
        "kind": ("view", "cart", "buy")[int(rng.integers(3))],
        "price": round(float(rng.integers(100, 90_000)) / 100, 2),
        "category": 2_053_013_555_631_882_655 + int(rng.integers(6)),
    }[name]


def make(seed):
    """A log, and the content of a file that holds it in some form."""
    rng = np.random.default_rng(seed)
    log = make_log(
        seed,
        users=int(rng.integers(15, 60)),
        items=int(rng.integers(12, 300)),
        length=int(rng.integers(4, 12)),
        user=draw(rng, ["{}", "u{}", "A{:05d}XQ", "{}@mail.org", "2000{:05d}"]),
        item=draw(rng, ["{}", "i{}", "B{:05d}ZZ", "2145{:05d}", "item/{}"]),
        shuffled=bool(rng.integers(2)),
    )
    written = draw(rng, WRITTEN)
    named = bool(rng.integers(3))
    columns = list(draw(rng, ORDERS))
    if named:
        columns = ["user", "item", "time"]
        columns += [c for c in ("rating", "kind", "price", "category") if rng.integers(2)]
        rng.shuffle(columns)
        columns = [str(c) for c in columns]
    rows = [tuple(cell(name, row, rng, written) for name in columns) for row in log.rows]
    header = [draw(rng, NAMES[name]) for name in columns] if named else None
    form = draw(rng, ["table"] * 6 + ["json", "parquet"] if named else ["table"])
    if form == "json":
        content = "\n".join(
            json.dumps(dict(zip(header, row, strict=True))) for row in rows
        ).encode()
    elif form == "parquet":
        frame = pl.DataFrame(rows, schema=header, orient="row")
        content = frame
    else:
        separator = draw(rng, [",", ",", "\t", ";", "|"])
        text = table(rows, header, separator, draw(rng, ["\n", "\n", "\r\n"]))
        if rng.integers(4) == 0:
            text = "\n" * int(rng.integers(700)) + text.replace("\n", "\n\n", int(rng.integers(5)))
        content = text.encode(draw(rng, ["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return log, content


def put(folder, content, rng):
    if isinstance(content, pl.DataFrame):
        content.write_parquet(folder / "log")
        return folder / "log"
    return write(folder, gzip.compress(content) if rng.integers(4) == 0 else content)


SEEDS = [range(20), *(slow(range(first, first + 99)) for first in range(20, 2000, 99))]


def each(seeds, folder):
    """The seeds, each with a folder of its own, by which a failure names it."""
    for seed in seeds:
        (folder / str(seed)).mkdir()
        yield seed, folder / str(seed)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_any_form_is_read_rightly_or_refused(tmp_path, seeds):
    for seed, folder in each(seeds, tmp_path):
        log, content = make(seed)
        path = put(folder, content, np.random.default_rng(seed))
        try:
            found = read(path)
        except DataError as refused:
            flags = remedies(refused)
            right = any(run_as_printed(path, flag) == log.sequences for flag in flags)
            assert right, (path, str(refused))
            continue
        assert found == log.sequences, path


@pytest.mark.slow
def test_few_forms_are_refused(tmp_path):
    refused = 0
    for seed in range(60):
        log, content = make(seed)
        try:
            assert read(put(tmp_path, content, np.random.default_rng(seed))) == log.sequences
        except DataError:
            refused += 1
    assert refused <= 6


def mutated(content: bytes, rng) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data)))
        size = int(rng.integers(1, 60))
        what = rng.integers(6)
        if what == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            del data[at : at + size]
        elif what == 2:
            data[at:at] = data[at : at + size]
        elif what == 3:
            data[at:at] = draw(rng, [b'"', b"\n", b"\0", b"\r", b"{", b"]", b"\xff", b",", b"\t,;"])
        elif what == 4:
            data[at:at] = b"9" * size
        else:
            del data[max(at, 10) :]
        if not data:
            data = bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_damaged_logs_end_in_one_line(tmp_path, seeds):
    for seed, folder in each(seeds, tmp_path):
        rng = np.random.default_rng(10_000 + seed)
        path = put(folder, make(seed)[1], np.random.default_rng(seed))
        path = write(folder, mutated(path.read_bytes(), rng), "damaged")
        try:
            read(path)
        except DataError as told:
            message = str(told)
            assert message.isprintable() and len(message) < 1200, path
            assert "damaged" in message or "user" in message, path
