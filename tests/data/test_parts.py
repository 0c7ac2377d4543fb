"""A large file is parsed part by part, and comes to what all of it at once comes to."""

import polars as pl
import pytest
from support.logs import make_log, table, write

from rka_fast.data import rows, values
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
LIMITS = [None, "user_id!=u3", "timestamp>1600500000", "timestamp>=2021-03-05"]


def outcome(path, where):
    try:
        found = read_interactions(path, where=where)
    except DataError as told:
        return str(told)
    frame = found.frame.with_columns(pl.col("user", "item").cast(pl.String))
    return frame.schema, frame.rows(), found.form, found.dated, found.notes, found.warnings


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Parts and a sample so small that what is unusual stands behind them."""
    monkeypatch.setattr(rows, "PART", 1000)
    monkeypatch.setattr(rows, "SAMPLE", 100)


@pytest.mark.parametrize("where", LIMITS, ids=str)
@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_parts_come_to_the_whole(tmp_path, monkeypatch, name, where):
    path = write(tmp_path, (USUAL | UNUSUAL)[name].encode())
    with monkeypatch.context() as patch:
        patch.setattr(values, "_by_parts", lambda *given: None)
        whole = outcome(path, where)
    assert outcome(path, where) == whole


@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_what_is_usual_is_read_part_by_part(tmp_path, monkeypatch, name):
    path, found = write(tmp_path, (USUAL | UNUSUAL)[name].encode()), []
    by_parts = values._by_parts

    def seen(*given):
        frames = by_parts(*given)
        found.append(0 if frames is None else len(frames))
        return frames

    monkeypatch.setattr(values, "_by_parts", seen)
    outcome(path, None)
    assert len(found) == 1 and (found[0] > 10) == (name in USUAL)
