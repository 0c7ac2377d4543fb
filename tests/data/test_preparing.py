"""Prepared data: every engine against the sequences and counts that are made in memory."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.engines import Polars, why_not
from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.preparing import WORK, Options, prepare
from rka_fast.data.readers import Log, read_interactions
from rka_fast.data.shards import TYPES, Prepared, half_of, read_parquet, shard_path
from rka_fast.data.split_rules import SplitOptions, leave_one_out, no_split
from rka_fast.errors import ConfigError, DataError, FolderError

FILTERS = {
    "usual": Filters(),
    "all": Filters(2, "drop", "drop", "drop", 3, 3),
    "core": Filters(min_user_events=4, min_item_events=9, core="iterated", duplicates="keep"),
    "rated": Filters(min_rating=3.5, repeats="drop"),
}


def engines():
    for name in ("polars", "duckdb", "spark"):
        reason = why_not(name)
        marks = [pytest.mark.skipif(reason is not None, reason=f"{name} {reason}")]
        if name == "spark":
            marks.append(pytest.mark.slow)
        yield pytest.param(name, marks=marks)


def by_ids(of: Prepared, counted: int) -> tuple[dict, dict]:
    """Items and times of every user, and the counts of every pair, all by their ids."""
    found = of.sequences()
    ids = ["", *found.item_ids]
    histories = {
        user: [(ids[i], t) for i, t in zip(found.sequence(u), times, strict=True)]
        for u, (user, times) in enumerate(
            zip(found.user_ids, np.split(found.timestamps, found.indptr[1:-1]), strict=True)
        )
    }
    counts = of.counts("leave-one-out", counted).matrix.tocoo()
    pairs = zip(counts.row, counts.col, counts.data, strict=True)
    return histories, {(ids[i], ids[j]): int(users) for i, j, users in pairs}


ENGINES = list(engines())


def write_log(folder: Path, seed: int = 0, files: int = 3, times: str = "tied") -> Path:
    """Some files of events with ties, repeats, equal rows, missing ratings and odd ids.

    times: "" for none; "apart" where each file comes after the one before.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(files):
        lines = ["user_id,item_id,rating" + (",timestamp" if times else "")]
        for user, item in (rng.random((400, 2)) ** 2 * (60, 50)).astype(int):
            rating = "" if rng.random() < 0.05 else f"{rng.integers(1, 6)}"
            fields = [f"ü {user}", f"i'{item}", rating]
            if times:
                begin = 1_400_000_000 + 144_000 * number * (times == "apart")
                fields.append(f"{begin + 3600 * rng.integers(0, 40)}")
            lines += [",".join(fields)] * (1 + (rng.random() < 0.1))
        (folder / f"day{number}.csv").write_text("\n".join(lines))
    return folder


def made(log, out, filters=FILTERS["usual"], engine="polars", shards=3, counted=5000, **options):
    split, add = options.pop("split", "leave-one-out"), options.pop("add", None)
    return prepare(Log(log), out, filters, Options(engine, shards, split, counted, add), {})


def same_counts(counts, expected):
    assert counts is not None and (counts.matrix != expected.matrix).nnz == 0
    assert counts.matrix.dtype == expected.matrix.dtype
    assert np.array_equal(counts.matrix.indices, expected.matrix.indices)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_make_what_is_made_in_memory(engine, tmp_path):
    log = write_log(tmp_path / "log")
    chosen = ("all", "core") if engine == "spark" else FILTERS  # it takes its time
    for name, filters in ((name, FILTERS[name]) for name in chosen):
        expected, report = build_sequences(read_interactions(log), filters)
        found = made(log, tmp_path / name, filters, engine)
        sequences = found.sequences()
        assert sequences.digest() == expected.digest(), name
        assert found.report == report, name
        same_counts(
            found.counts("leave-one-out", 5000), CoOccurrence.from_split(leave_one_out(expected))
        )
        assert not (found.path / WORK).exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_write_the_same_rows_types_and_checksum(engine, tmp_path):
    log = write_log(tmp_path / "log")
    first = made(log, tmp_path / "polars", FILTERS["all"])
    other = made(log, tmp_path / "other", FILTERS["all"], engine)
    assert first.facts["content"] == other.facts["content"]
    assert first.facts["counts"] == other.facts["counts"]
    for number in range(3):
        rows = [read_parquet(shard_path(of.path, number)) for of in (first, other)]
        assert rows[0].schema == rows[1].schema == {**TYPES, "moment": pl.Int64}
        assert rows[0].equals(rows[1]) and len(rows[0]) > 50
        assert set(rows[0]["user_index"] % 3) == {number}
    again = made(write_log(tmp_path / "another", seed=1), tmp_path / "third", FILTERS["all"])
    assert again.facts["content"] != first.facts["content"]


@pytest.mark.parametrize("engine", ENGINES)
def test_counts_of_few_events_and_of_everything(engine, tmp_path):
    log = write_log(tmp_path / "log")
    expected, _ = build_sequences(read_interactions(log), Filters())
    few = made(log, tmp_path / "few", engine=engine, counted=4)
    split = leave_one_out(expected, SplitOptions(max_counted=4))
    assert split.over_counted.any()
    same_counts(few.counts("leave-one-out", 4), CoOccurrence.from_split(split))
    assert few.counts("leave-one-out", 5000) is None and few.counts("none", 4) is None
    if engine != "spark":
        everything = made(log, tmp_path / "all", engine=engine, split="none")
        same_counts(everything.counts("none", 5000), CoOccurrence.from_split(no_split(expected)))


@pytest.mark.parametrize("times", ["tied", ""])
@pytest.mark.parametrize("files", [1, 2])
def test_the_number_of_files_and_times_do_not_matter(times, files, tmp_path):
    log = write_log(tmp_path / "log", files=files, times=times)
    expected, report = build_sequences(read_interactions(log), Filters())
    found = made(log, tmp_path / "out", shards=1)
    assert found.sequences().digest() == expected.digest()
    assert found.report == report
    assert found.facts["timed"] == bool(times)


def test_whole_times_in_one_file_and_others_in_the_next(tmp_path):
    frames = ("u,i,3\nu,j,4\nv,i,5\nv,j,9\n", "u,k,1.5\nv,k,2.5\nw,i,0.25\n")
    log = tmp_path / "log"
    log.mkdir()
    for number, text in enumerate(frames):
        (log / f"{number}.csv").write_text("user,item,timestamp\n" + text)
    expected, _ = build_sequences(read_interactions(log, time_format="number"), Filters())
    options = Options("polars", 1, None, 5000)
    found = prepare(Log(log, time_format="number"), tmp_path / "out", Filters(), options, {})
    assert found.sequences().digest() == expected.digest()
    assert found.sequences().timestamps.tolist() == [1.5, 3, 4, 2.5, 5, 9, 0.25]


def test_sessions_that_every_file_numbers_anew(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    for name in "ab":
        rows = [f"{session},{name}{k}" for session in range(5) for k in range(3)]
        (log / f"{name}.csv").write_text("session_id,item_id\n" + "\n".join(rows))
    found = made(log, tmp_path / "out")
    expected, report = build_sequences(read_interactions(log), Filters())
    assert found.ids("user") == expected.user_ids == [f"{n}:{k}" for n in "ab" for k in range(5)]
    assert found.sequences().digest() == expected.digest() and found.report == report


def test_counts_add_over_shards(tmp_path):
    log = write_log(tmp_path / "log")
    whole = made(log, tmp_path / "whole")
    parts = []
    for number in range(3):  # a log of the users of one shard, under the indices of all
        rows = read_parquet(shard_path(whole.path, number))
        taught = rows.filter(
            pl.col("position") < pl.len().over("user_index") - 2 * (pl.len().over("user_index") > 2)
        )
        had = taught.select("user_index", "item_index").unique()
        pairs = had.join(had, on="user_index", suffix="_b")
        pairs = pairs.filter(pl.col("item_index") <= pl.col("item_index_b"))
        parts.append(pairs.group_by("item_index", "item_index_b").agg(pl.len().alias("users")))
    total = CoOccurrence.from_half(half_of(parts, whole.facts["items"])).matrix
    assert (whole.counts("leave-one-out", 5000).matrix != total).nnz == 0 and total.nnz > 100


@pytest.mark.parametrize("engine", ENGINES)
def test_days_add_to_what_all_of_them_would_be(engine, tmp_path):
    chosen = [("usual", 5000, "tied"), ("rated", 5000, "apart"), ("usual", 3, "apart")]
    for name, counted, times in chosen[-1:] if engine == "spark" else chosen:
        filters, whole = FILTERS[name], write_log(tmp_path / f"{name}{counted}{times}", times=times)
        days = sorted(whole.iterdir())
        expected = made(whole, tmp_path / f"{name}{counted}", filters, counted=counted)
        so_far = made(days[0], tmp_path / f"{name}{counted}-0", filters, counted=counted)
        for number in (1, 2):
            out = tmp_path / f"{name}{counted}-{number}"
            more = {"counted": counted, "add": so_far, "shards": None}
            so_far = made(days[number], out, filters, engine, **more)
        if name == "usual":
            assert so_far.facts["content"] == expected.facts["content"]
            assert so_far.facts["counts"] == expected.facts["counts"]
        else:  # who was dropped on the first day has another index when it comes again
            assert by_ids(so_far, counted) == by_ids(expected, counted)
        assert so_far.report.events == expected.report.events
        assert so_far.report.ties == expected.report.ties


def test_what_cannot_be_added(tmp_path):
    log = write_log(tmp_path / "log", files=1)
    first = made(log, tmp_path / "first")
    with pytest.raises(DataError, match="min_user_events and min_item_events cannot be added to"):
        made(log, tmp_path / "out", FILTERS["core"], add=first)
    with pytest.raises(DataError, match="min_rating with ties 'drop' cannot be added to"):
        made(log, tmp_path / "out", Filters(min_rating=3.0, ties="drop"), add=first)
    other = write_log(tmp_path / "other", files=1, times="")
    with pytest.raises(DataError, match="where times are dates, and has none; name the columns"):
        made(other, tmp_path / "out", add=first)


def test_what_is_there_is_kept_and_what_was_cut_off_begun_anew(tmp_path):
    log, out = write_log(tmp_path / "log"), tmp_path / "out"
    found = made(log, out)
    with pytest.raises(FolderError, match=f"{out} is prepared already; train on it"):
        made(log, out)
    (out / "prepared.json").unlink()  # as if killed before the end
    (out / WORK).mkdir()
    (out / WORK / "events.parquet").write_text("half")
    shard_path(out, 7).write_text("of another number of shards")
    again = made(log, out)
    assert again.facts == found.facts and not shard_path(out, 7).exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderError, match="holds other things, such as thesis.tex"):
        made(log, other)
    assert (other / "thesis.tex").read_text() == "years of work"
    (other / "thesis.tex").rename(other / "users.parquet")  # a name of ours, but no folder of ours
    with pytest.raises(FolderError, match=r"holds other things, such as users\.parquet"):
        made(log, other)
    assert (other / "users.parquet").read_text() == "years of work"


class Died(BaseException):
    pass


def test_whatever_it_dies_at_the_same_command_goes_through(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log", files=2)
    expected = made(log, tmp_path / "expected", FILTERS["rated"])
    copy, calls = Polars.copy, [0]

    def dying(self: Polars, sql: str, path: Path) -> None:
        copy(self, sql, path)
        calls[0] -= 1
        if calls[0] == 0:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Died

    monkeypatch.setattr(Polars, "copy", dying)
    for call in range(1, 20):
        out, calls[0] = tmp_path / f"out{call}", call
        try:
            made(log, out, FILTERS["rated"])
            break
        except Died:
            assert not Prepared.is_one(str(out)) and (out / WORK).is_dir()
            with pytest.raises(DataError, match="was not prepared to its end"):
                Prepared.refuse_unfinished(str(out))
        calls[0] = 0
        again = made(log, out, FILTERS["rated"])
        assert again.facts == expected.facts and again.sequences().num_users > 50
        assert sorted(path.name for path in out.iterdir()) == sorted(
            path.name for path in expected.path.iterdir()
        )
    assert call >= 10  # rules, users, items, numbered, shards, pairs, counts


def test_damage_is_named(tmp_path):
    found = made(write_log(tmp_path / "log"), tmp_path / "out")
    path = shard_path(found.path, 1)
    rows = pl.read_parquet(path)
    changed = rows.with_columns(item_index=pl.col("item_index").reverse())
    assert not changed.equals(rows)
    changed.write_parquet(path)
    with pytest.raises(DataError, match="00001.parquet is damaged: it is not what was prepared"):
        found.sequences()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="00001.parquet is damaged"):
        found.sequences()
    rows.select("user_index").write_parquet(path)
    with pytest.raises(DataError, match="00001.parquet has columns"):
        found.sequences()
    path.unlink()
    with pytest.raises(DataError, match="00001.parquet is damaged"):
        found.sequences()
    counts = found.path / "counts.parquet"
    pairs = pl.read_parquet(counts)
    assert len(pairs) == found.facts["counts"]["pairs"] > 100
    pairs.with_columns(users=pl.col("users") + 1).write_parquet(counts)
    with pytest.raises(DataError, match="counts.parquet is damaged: it is not what was prepared"):
        found.counts("leave-one-out", 5000)
    counts.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="counts.parquet is damaged"):
        found.counts("leave-one-out", 5000)
    file = found.path / "prepared.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(DataError, match="format 2, this version of rka_fast reads 1"):
        Prepared.open(found.path)
    facts["sums"]["users"] = "0"
    file.write_text(json.dumps(facts))
    with pytest.raises(DataError, match="prepared.json is damaged"):
        Prepared.open(found.path)


def test_what_cannot_be_prepared(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log")
    with pytest.raises(DataError, match="ties 'shuffle' draws an order of the whole log"):
        made(log, tmp_path / "out", Filters(ties="shuffle"))
    with pytest.raises(DataError, match="shards 1000: there are only 60 users"):
        made(log, tmp_path / "out", shards=1000)
    with pytest.raises(DataError, match="no events are left"):
        made(log, tmp_path / "out", Filters(min_rating=6))
    one = tmp_path / "one.csv"
    one.write_text("user,item\nu,i\nu,j\n")
    with pytest.raises(DataError, match="only one user, 'u', in the data"):
        made(one, tmp_path / "out", shards=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for engine, package in (("duckdb", "duckdb"), ("spark", "pyspark")):
        with pytest.raises(ConfigError, match=f"needs {package}; pip install {package}"):
            made(log, tmp_path / "out", engine=engine)
