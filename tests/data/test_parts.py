"""A large file is parsed part by part, and comes to what all of it at once comes to."""

import io
import json
import os
import threading

import polars as pl
import pytest
from support.logs import make_log, table, write

from rka_fast.data import json_lines, records, rows, texts, values
from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

ROWS = make_log(7, users=120, length=9).rows
HEADER = ["user_id", "item_id", "timestamp"]
DATED = [(u, i, f"2021-03-{1 + t % 28:02} 10:{t % 60:02}:00") for u, i, t in ROWS]

NUMBERED = [(u, i, t % 10**6) for u, i, t in ROWS]


def changed(row, *cells, of=ROWS):
    """The rows with some cells of one of them replaced."""
    made = [tuple(old if new is None else new for old, new in zip(of[row], cells, strict=True))]
    return [*of[:row], *made, *of[row + 1 :]]


USUAL = {
    "plain": table(ROWS, HEADER),
    "no header": table(ROWS, separator="\t"),
    "two-letter separator": table(ROWS, separator="::"),
    "dates": table(DATED, HEADER, ";"),
    "quoted": table([(f"a,{u}", i, t) for u, i, t in ROWS], HEADER),
    "missing": table(changed(300, "", None, None, of=changed(5, None, "NA", None)), HEADER),
    "header again": table([*DATED[:200], HEADER, *DATED[200:]], HEADER),
    "numbers": table(NUMBERED, HEADER),
    "no end of line": table(ROWS, HEADER).rstrip(),
    "comments": "# made up\n" + table(ROWS, HEADER).replace("\n", "\n# more\n", 1),
}
UNUSUAL = {
    "header among numbers": table([*ROWS[:200], HEADER, *ROWS[200:]], HEADER),
    "blank line": table(ROWS[:900], HEADER) + "\n" + table(ROWS[900:]),
    "one blank before an id": table(changed(910, " u1", None, None), HEADER),
    "quote in a field": table(ROWS, HEADER).replace("u7,", 'u7",'),
    "line break in quotes": table(changed(910, "u\n1", None, None), HEADER),
    "one number not whole": table(changed(910, None, None, 12.5, of=NUMBERED), HEADER),
    "short line": table(ROWS[:900], HEADER) + "u1,i1\n" + table(ROWS[900:]),
    "long line": table(ROWS[:900], HEADER) + "u1,i1,5,6\n" + table(ROWS[900:]),
    "no time": table(changed(910, None, None, "soon"), HEADER),
    "no date": table(changed(910, None, None, "2021-02-30 10:00:00", of=DATED), HEADER),
    "quote not closed": table(ROWS[:900], HEADER) + '"u1,i1,5\n' + table(ROWS[900:]),
}


def objects(of=ROWS, names=HEADER):
    """The rows as objects, one a line."""
    return [json.dumps(dict(zip(names, row, strict=True))) for row in of]


def text(lines):
    return "\n".join(lines) + "\n"


def parquet(of=ROWS, schema=HEADER, groups=70):
    """The rows as a Parquet file."""
    file = io.BytesIO()
    pl.DataFrame(of, schema=schema, orient="row").write_parquet(file, row_group_size=groups)
    return file.getvalue()


LISTS = [(u, [i for v, i, _ in ROWS if v == u]) for u in dict.fromkeys(u for u, _, _ in ROWS)]
LENGTHS = [(user, [len(item) for item in items]) for user, items in LISTS]
INSIDE = [({"id": user}, item) for user, item, _ in ROWS]
DIGITS = [(int(u[1:]), int(i[1:]), t) for u, i, t in ROWS]
FLOATS = [(float(u), i, t) for u, i, t in DIGITS]
LINES = {
    "lines": text(objects()),
    "lines of numbers": text(objects(DIGITS)),
    "lines of dates": text(objects(DATED)),
    "lines with numbers as times": text(objects(NUMBERED)),
    "last line without end": text(objects()).rstrip(),
    "null, and nothing": text([*objects(changed(5, None, "NA", None)), '{"user_id": null}', "{}"]),
    "blank lines": text(objects(ROWS[:900])) + " \x0b\n\n" + text(objects(ROWS[900:])),
    "letters after numbers": text(objects(changed(910, "u1", None, None, of=DIGITS))),
    "true among numbers": text([*objects(DIGITS), '{"user_id": true, "item_id": 3}']),
    "a column that comes late": text(objects()) + '{"rating": 4, "user_id": "u1", "item_id": "i1"}',
    "objects": text(objects(INSIDE, ["user", "item"])),
    "objects with more at the end": text(objects(INSIDE, ["user", "item"]))
    + '{"item": "i1", "user": {"age": 3, "id": "u1"}}',
    "lists": text(objects(LISTS, ["user", "items"])) + '{"user": "u1", "items": []}',
    "lists of numbers": text(objects(LENGTHS, ["user", "items"])),
    "a list among scalars": text([*objects(), '{"user_id": ["u1"], "item_id": "i1"}']),
}  # fmt: skip
ODD_LINES = {
    "a blank before an id in a line": text(objects(changed(910, " u1", None, None))),
    "a blank in a list": text(objects([*LISTS, ("u9", [" i1"])], ["user", "items"])),
    "a time that is not whole": text(objects(changed(910, None, None, 12.5, of=NUMBERED))),
    "no time in a line": text(objects(changed(910, None, None, "soon"))),
    "a line cut off": text(objects())[:-9],
    "a line that is no object": text([*objects(), "[1, 2]"]),
    "deep": text([*objects(), '{"user_id": ' + "[" * 9999 + "]" * 9999 + "}"]),
    "a string over two lines": text([*objects(), '{"user_id": "u', '1", "item_id": "i1"}']),
}  # fmt: skip
GROUPS = {
    "row groups": parquet(),
    "one row group": parquet(groups=10**6),
    "integers": parquet(DIGITS),
    "integers of 32 bits": parquet(
        NUMBERED, {"user_id": pl.String, "item_id": pl.Categorical, "timestamp": pl.Int32}
    ),
    "whole floats": parquet(FLOATS),
    "lists in Parquet": parquet(LISTS, ["user", "items"]),
    "missing in Parquet": parquet(changed(910, None, None, None, of=[*ROWS, (None, "i1", None)])),
}
ODD_GROUPS = {
    "one float not whole": parquet(changed(910, 12.5, None, None, of=FLOATS)),
    "one blank in Parquet": parquet(changed(910, "u1 ", None, None)),
    "bytes": parquet([(u.encode(), i, t) for u, i, t in ROWS]),
    "an integer beyond 63 bits": parquet(
        changed(910, None, None, 2**63 + 5, of=NUMBERED),
        {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.UInt64},
    ),
    "numbers with a part": parquet([(u, i, float(t)) for u, i, t in NUMBERED]),
    "last row group damaged": parquet()[:-3000] + bytes(1500) + parquet()[-1500:],
}
USUAL |= LINES | GROUPS
UNUSUAL |= ODD_LINES | ODD_GROUPS
FORMS = {k: v if isinstance(v, bytes) else v.encode() for k, v in (USUAL | UNUSUAL).items()}
LIMITS = [None, "user_id!=u3", "timestamp>1600500000", "timestamp>=2021-03-05"]


def outcome(path, where):
    try:
        found = read_interactions(path, where=where)
    except DataError as told:
        return str(told)
    frame = found.frame.with_columns(pl.col("user", "item").cast(pl.String))
    if "rating" in frame.columns:
        frame = frame.with_columns(pl.col("rating").fill_nan(-1))
    return frame.schema, frame.rows(), found.form, found.dated, found.notes, found.warnings


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Parts and a sample so small that what is unusual stands behind them."""
    for module, size in ((rows, 1000), (json_lines, 1000), (records, 70)):
        monkeypatch.setattr(module, "PART", size)
        monkeypatch.setattr(module, "SAMPLE", 100)


@pytest.mark.parametrize("where", LIMITS, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_parts_come_to_the_whole(tmp_path, monkeypatch, name, where):
    path = write(tmp_path, FORMS[name])
    with monkeypatch.context() as patch:
        patch.setattr(values, "_by_parts", lambda *given: None)
        whole = outcome(path, where)
    assert outcome(path, where) == whole


@pytest.mark.parametrize("name", FORMS)
def test_what_is_usual_is_read_part_by_part(tmp_path, monkeypatch, name):
    path, found = write(tmp_path, FORMS[name]), []
    by_parts = values._by_parts

    def seen(source, roles, kind, conditions, tally, parts):
        each = (found.append(part) or part for part in parts)
        frame = by_parts(source, roles, kind, conditions, tally, each)
        found.append("whole" if frame is None else "parts")
        return frame

    monkeypatch.setattr(values, "_by_parts", seen)
    told = outcome(path, None)
    if found:  # else the form itself is refused
        assert found[-1] == ("parts" if name in USUAL else "whole")
        least = 2 if "lists" in name else 10
        assert len(found) > least or name in UNUSUAL
    assert found or (name in UNUSUAL and isinstance(told, str))


@pytest.mark.parametrize("name", ["plain", "lines"])
def test_the_text_is_let_go_of_where_it_can_be_read_again(tmp_path, monkeypatch, name):
    """A file of its own is read again; what was packed, or comes through a pipe, is kept."""
    held, content = [], FORMS[name]
    parts = texts.Text.parts

    def seen(text, begin, size):
        for part in parts(text, begin, size):
            held.append(text._content is not None)
            yield part

    monkeypatch.setattr(texts.Text, "parts", seen)
    plain = outcome(write(tmp_path, content), None)
    assert not any(held) and len(held) > 10
    held.clear()
    assert outcome(write(tmp_path, content.replace(b"\n", b"\r\n"), "other"), None)[:2] == plain[:2]
    assert all(held) and len(held) > 10
    held.clear()
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content], daemon=True).start()
    assert outcome(tmp_path / "pipe", None)[:2] == plain[:2]
    assert all(held) and len(held) > 10


def test_a_file_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    path = write(tmp_path, FORMS["plain"])
    parts = texts.Text.parts

    def grown(text, begin, size):
        path.write_bytes(FORMS["plain"] + b"u1,i1,1600000000\n")
        yield from parts(text, begin, size)

    monkeypatch.setattr(texts.Text, "parts", grown)
    with pytest.raises(DataError, match="log was changed while it was read; read it again"):
        read_interactions(path)
