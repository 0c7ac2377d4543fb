"""Forms of well-known public files, and what programs do to them, with invented content."""

import json
from datetime import datetime, timezone

import numpy as np
import pytest
from support.logs import make_log, read, remedies, run_as_printed, table, write

from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

LOG = make_log(users=40)
NUMBERS = make_log(users=40, user="{}", item="{}", items=200)
NAMES = ["user", "item", "time"]
RNG = np.random.default_rng(0)


def iso(time):
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def rows(make, log=LOG):
    return [make(user, item, time) for user, item, time in log.rows]


FORMS = {
    "check-ins with places": (
        table(
            rows(lambda u, i, t: (u, iso(t), 30 + RNG.random(), -97 + RNG.random(), i), NUMBERS),
            separator="\t",
        ),
        NUMBERS,
    ),
    "clicks of sessions, categories 0 and S": (
        table(rows(lambda u, i, t: (u, iso(t), i, ["0", "S", "1", "12"][t % 4]), NUMBERS)),
        NUMBERS,
    ),
    "reviews with texts of several lines": (
        table(
            rows(lambda u, i, t: (f"r{t}", u, i, 5, 'Nice, "really" good\nplace', iso(t))),
            ["review_id", "user_id", "business_id", "stars", "text", "date"],
        ),
        LOG,
    ),
    "a separator ends every line": (table(rows(lambda *row: (*row, ""))), LOG),
    "but not the header": ("user,item,time\n" + table(rows(lambda *row: (*row, ""))), LOG),
    "the header too": (table(rows(lambda *row: (*row, "")), [*NAMES, ""]), LOG),
    "files put one behind the other": (
        table(LOG.rows[:99], NAMES) + table(LOG.rows[99:200], NAMES) + table(LOG.rows[200:], NAMES),
        LOG,
    ),
    "Excel names the separator": ("sep=;\n" + table(LOG.rows, NAMES, ";"), LOG),
    "a header that is a comment": ("# user\titem\ttime\n" + table(LOG.rows, separator="\t"), LOG),
    "a decimal comma": (
        table(rows(lambda u, i, t: (u, i, "4,5", t)), ["user", "item", "rating", "time"], ";"),
        LOG,
    ),
    "words for ratings": (
        table(
            rows(lambda u, i, t: (u, i, ["like", "dislike"][t % 2], t)),
            ["user", "item", "rating", "time"],
        ),
        LOG,
    ),
    "everything in quotes": ("".join('"{}","{}","{}"\n'.format(*row) for row in LOG.rows), LOG),
    "blanks between, date and time of day": (
        "".join(f"{u} {i} {iso(t)[:10]} {iso(t)[11:19]}\n" for u, i, t in LOG.rows),
        LOG,
    ),
    "objects in objects": (
        "\n".join(
            json.dumps({"user": {"id": u, "age": 3}, "item": {"id": i}, "at": {"$date": iso(t)}})
            for u, i, t in LOG.rows
        ),
        LOG,
    ),
    "a session beside the user": (
        table(rows(lambda u, i, t: (f"s{t}", u, i, t)), ["session_id", "user_id", "item_id", "ts"]),
        LOG,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_public_forms(tmp_path, name):
    content, log = FORMS[name]
    assert read(write(tmp_path, content)) == log.sequences


def test_what_was_left_out_of_them_is_said(tmp_path):
    def notes(name):
        return read_interactions(write(tmp_path, FORMS[name][0])).notes

    assert "left out 2 rows that are the header again" in notes("files put one behind the other")
    assert "skipped 1 line that begins with sep=" in notes("Excel names the separator")
    assert any("columns not used: rating" in note for note in notes("words for ratings"))
    assert any(
        "columns not used: session_id" in note for note in notes("a session beside the user")
    )


def test_numbers_of_any_size_stay_whole(tmp_path):
    large = {u: str(2**70 + int(u[1:])) for u in LOG.sequences}
    records = [{"user": int(large[u]), "item": i, "time": t} for u, i, t in LOG.rows]
    expected = {large[u]: items for u, items in LOG.sequences.items()}
    assert read(write(tmp_path, "\n".join(map(json.dumps, records)))) == expected
    text = table([(large[u], i, t) for u, i, t in LOG.rows], NAMES)
    assert read(write(tmp_path, text)) == expected


REFUSED = {
    # content and which of the remedies is right
    "purchases with prices and quantities": (
        rows(lambda u, i, t: (u, iso(t), i, 100 + t % 19_991, 1 + t % 3), NUMBERS), NUMBERS, 0,
    ),
    "ratings by user, in no order": (
        sorted(
            rows(lambda u, i, t: (u, i, t % 5 + 1, t), NUMBERS),
            key=lambda row: (row[0], row[3] % 97),
        ),
        NUMBERS,
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_asked(tmp_path, name):
    content, log, right = REFUSED[name]
    path = write(tmp_path, table(content))
    with pytest.raises(DataError) as refused:
        read_interactions(path)
    assert run_as_printed(path, remedies(refused.value)[right]) == log.sequences


def test_items_as_headings_are_no_table(tmp_path):
    lines = "1:\n" + "".join(f"{u},{int(i) % 5 + 1},{iso(t)[:10]}\n" for u, i, t in NUMBERS.rows)
    with pytest.raises(DataError, match="line 1: expected 3 columns separated by commas, got 1"):
        read_interactions(write(tmp_path, lines))
