"""From a log to a folder of prepared data, file by file and by an engine's queries."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rka_fast.data import query, shards
from rka_fast.data.data_report import Dropped, Summary, Told
from rka_fast.data.engines import Engine, make_engine
from rka_fast.data.filters import Filters, refuse_too_few, ties
from rka_fast.data.query import Query
from rka_fast.data.readers import Log, is_no_chance, prefixed, rises
from rka_fast.data.shards import ITEMS, PREPARED, USERS, Prepared
from rka_fast.errors import DataError, FolderError, UserError
from rka_fast.files import LOCK, locked, sync_folder, to_json, write_atomically

SHARD_EVENTS = 20_000_000
"""Events of a shard, about, where the number of shards is not given."""
WORK = "work"
_OURS = {WORK, USERS, ITEMS, shards.SHARDS, shards.COUNTS, LOCK}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a folder is made.

    engine: a name of `ENGINES`. shards: how many, or None for one per SHARD_EVENTS. split: the
    rule whose training events are counted, "leave-one-out" or "none"; None counts nothing.
    max_counted: see `Split`. add: earlier data that the events of the log are added to, whose users
    and items keep their indices.
    """

    engine: str
    shards: int | None
    split: str | None
    max_counted: int
    add: Prepared | None = None


def prepare(
    log: Log, out: Path, filters: Filters, options: Options, settings: dict[str, Any]
) -> Prepared:
    """Write the sequences of a log to the folder `out`, as `build_sequences` would make them.

    settings: JSON-able, how the log was read, kept in the folder. prepared.json comes last: a
    folder without it is begun anew. Raises DataError for what cannot be used, ConfigError for an
    engine that is not installed and FolderError for a folder that is in use or holds other things.
    """
    if filters.ties == "shuffle":
        raise DataError(
            "ties 'shuffle' draws an order of the whole log, which is not prepared; take ties file "
            "or drop, or train on the log itself"
        )
    if options.add is not None and max(filters.min_user_events, filters.min_item_events) > 1:
        raise DataError(
            "min_user_events and min_item_events cannot be added to: what an earlier day has "
            "dropped is not there; prepare all days at once"
        )
    if options.add is not None and filters.min_rating is not None and filters.ties == "drop":
        raise DataError(
            "min_rating with ties 'drop' cannot be added to: what an earlier day has dropped by "
            "its rating would have dropped what ties with it; prepare all days at once"
        )
    _refuse_existing(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot write to {out}: {error.strerror}") from None
    with locked(out):
        _refuse_existing(out)
        _clear(out, _OURS - {LOCK})
        work = out / WORK
        for folder in (work / "events", out / shards.SHARDS):
            folder.mkdir(parents=True)
        engine = make_engine(options.engine, work)
        try:
            with _named(options.engine):
                facts = _Preparing(engine, log, out, filters, options).facts()
        finally:
            engine.close()
        _clear(out, {WORK})
        _sync(out)
        facts = {**facts, "settings": settings, "engine": options.engine}
        write_atomically(out / PREPARED, to_json({"format": shards.FORMAT, **facts}))
    return Prepared.open(out)


def _times(timed: bool, dated: bool) -> str:
    return ("dates" if dated else "numbers of its own") if timed else "none"


def _refuse_existing(out: Path) -> None:
    if Prepared.is_one(str(out)):
        raise FolderError(
            f"{out} is prepared already; train on it with --data {out}, or choose another --out"
        )
    if out.exists() and not out.is_dir():
        raise FolderError(f"{out} is a file; choose another --out")
    others = {path.name for path in out.iterdir()} if out.exists() else set()
    if LOCK in others:  # it was begun here; else these names are somebody else's
        others -= _OURS
    if others := sorted(name for name in others if not name.endswith(".tmp")):
        raise FolderError(f"{out} holds other things, such as {others[0]}; choose another --out")


def _clear(out: Path, names: set[str]) -> None:
    for path in [*(out / name for name in names), *out.glob(".*.tmp")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    sync_folder(out)


def _sync(out: Path) -> None:
    """Let what engines wrote survive a crash of the machine, before it is said to be there."""
    for path in [path for path in out.rglob("*") if path.is_file()]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)


@contextmanager
def _named(engine: str) -> Iterator[None]:
    """Let an engine's own errors be one line that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0].strip("_") not in (
            "duckdb", "polars", "pyspark", "py4j",
        ):  # fmt: skip
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"engine {engine!r} has failed: {reason[:300]}") from error


class _Preparing:
    """One preparation, up to the content of prepared.json."""

    def __init__(
        self, engine: Engine, log: Log, out: Path, filters: Filters, options: Options
    ) -> None:
        self.engine, self.log, self.out = engine, log, out
        self.filters, self.options = filters, options
        self.work = out / WORK

    def facts(self) -> dict[str, Any]:
        add = self.options.add
        columns, ordered = self._write_events()
        self.query = Query(columns)
        dropped = self._keep()
        events, users, _ = self.engine.rows(query.sizes("kept"))[0]
        some = self.engine.rows("SELECT MIN(user_id) AS user_id FROM kept")[0] if users else ()
        refuse_too_few(users, list(some), self.log.form, dropped)
        count = self.options.shards or (add.shards if add else -(-events // SHARD_EVENTS))
        if count > users:
            raise DataError(f"shards {count}: there are only {users:,} users; take fewer")
        ids = self._number()
        for number in range(count):
            self.engine.copy(self.query.shard(number, count), self._shard(number))
        counted = self._count(count)
        warnings = [*self.log.warnings, *self.log.mixed(ids)]
        told = Told(self.log.form, ordered, self.log.notes, warnings)
        summary = Summary(ids["item"].to_list(), self.filters.ties)
        sums = {
            "users": shards.ids_sum(ids["user"]),
            "items": shards.ids_sum(ids["item"]),
            "shards": [self._sum(number, count, users, summary) for number in range(count)],
        }
        report = summary.report(told, dropped)
        if report.events != events:
            raise DataError(f"engine {self.options.engine!r} lost events: report this as a fault")
        return {
            "users": users,
            "items": len(ids["item"]),
            "events": events,
            "timed": self.query.timed,
            "dated": self.log.dated,
            "report": report.to_json(),
            "counts": counted,
            "sums": sums,
            "content": shards.content_sum(sums),
        }

    def _shard(self, number: int) -> Path:
        return shards.shard_path(self.out, number)

    def _write_events(self) -> tuple[list[str], bool]:
        """Write the events of every file of the log. Returns their columns, and `ordered`."""
        files: list[Path] = []
        add = self.options.add
        begin = place = 0 if add is None else add.facts["events"]
        types = {}
        steps: int | None = 0  # by which ids rise
        for frame in self.log.frames():
            more = rises(frame) if "timestamp" not in frame.columns and steps is not None else None
            steps = None if more is None or steps is None else steps + more
            frame = frame.with_columns(pl.col("user", "item").cast(pl.String))
            frame = frame.rename({"user": "user_id", "item": "item_id"})
            frame = frame.rename({"timestamp": "moment"}, strict=False)
            if "rating" in frame.columns:  # NaN is above all numbers to some engines
                frame = frame.with_columns(pl.col("rating").fill_nan(None))
            numbers = pl.Series("place", np.arange(place, place + len(frame)), pl.Int64)
            frame.insert_column(0, numbers)
            files.append(self.work / "events" / f"{len(files):06}.parquet")
            frame.write_parquet(files[-1])
            place += len(frame)
            types[files[-1]] = frame.schema.get("moment")
        self.log.refuse_nothing(place - begin)
        fresh = list(files)
        if add is not None:
            for path, frame in self._old_events(add, list(pl.read_parquet_schema(files[0]))):
                frame.write_parquet(path)
                types[path] = frame.schema.get("moment")
                files.append(path)
        several = len(set(types.values())) > 1  # whole numbers in some files alone
        for number, path in enumerate(files):
            if self.log.prefixes is None and not several:
                break
            frame = pl.read_parquet(path)
            if self.log.prefixes is not None and path in fresh:
                frame = prefixed(self.log.prefixes[number], frame, "user_id")
            if several:
                frame = frame.with_columns(pl.col("moment").cast(pl.Float64))
            frame.write_parquet(path)
        self.engine.table("events", files)
        self.engine.table("fresh", fresh)
        return list(pl.read_parquet_schema(files[0])), not is_no_chance(steps)

    def _old_events(self, add: Prepared, columns: list[str]) -> Iterator[tuple[Path, pl.DataFrame]]:
        """The events of earlier data, in the order of every user, and files for them."""
        if (add.facts["timed"], add.facts["dated"]) != ("moment" in columns, self.log.dated):
            raise DataError(
                f"the log is to be added to {add.path}, where times are "
                f"{_times(add.facts['timed'], add.facts['dated'])}, and has "
                f"{_times('moment' in columns, self.log.dated)}; name the columns with --columns"
            )
        users, items = (pl.Series(add.ids(kind), dtype=pl.String) for kind in ("user", "item"))
        place = 0
        for number in range(add.shards):
            shard = add.shard(number)
            found = {
                "place": np.arange(place, place + len(shard.user_index)),
                "user_id": users.gather(shard.user_index),
                "item_id": items.gather(shard.item_index - 1),
                # What is there was rated well enough.
                "rating": np.full(len(shard.user_index), self.filters.min_rating or 0.0),
                "moment": shard.moment,
            }
            place += len(shard.user_index)
            path = self.work / "events" / f"old{number:06}.parquet"
            yield path, pl.DataFrame({name: found[name] for name in columns})

    def _keep(self) -> list[Dropped]:
        """Let the table kept be what the filters leave. Returns what each took."""
        name, dropped, made = "events", [], 0
        before = self.engine.rows(query.sizes(name))[0]
        for rule, text in self.query.rules(self.filters).items():
            first = before
            while True:
                table, made = f"kept{made}", made + 1
                path = self.work / f"{table}.parquet"
                self.engine.copy(text.format(name), path)
                self.engine.table(table, [path])
                after, name = self.engine.rows(query.sizes(table))[0], table
                _clear(self.work, {f"kept{made - 2}.parquet"})  # what this one was made of
                again = rule.endswith("(iterated)") and after != before
                before = after
                if not again:
                    break
            lost = [old - new for old, new in zip(first, before, strict=True)]
            if lost[0] or not rule.startswith("duplicates"):
                dropped.append(Dropped(rule, *lost))
        if name == "events":
            self.engine.table("kept", sorted((self.work / "events").iterdir()))
        else:
            self.engine.table("kept", [self.work / f"{name}.parquet"])
        return dropped

    def _number(self) -> dict[str, pl.Series]:
        """Number users, items and the events of every user. Returns the ids in their order."""
        found, add, old = {}, self.options.add, None
        if add is not None:
            for kind, name in (("user", USERS), ("item", ITEMS)):
                self.engine.table(f"old_{kind}s", [add.path / name])
        for kind, name in (("user", USERS), ("item", ITEMS)):
            old = None if add is None else add.facts[f"{kind}s"]
            self.engine.copy(query.numbers(kind, old), self.out / name)
            self.engine.table(f"{kind}s", [self.out / name])
            found[kind] = shards.read_parquet(self.out / name)[f"{kind}_id"]
        path = self.work / "numbered.parquet"
        self.engine.copy(self.query.numbered(), path)
        self.engine.table("numbered", [path])
        return found

    def _count(self, count: int) -> dict[str, Any] | None:
        """Write the co-occurrence counts. Returns what they are of."""
        if self.options.split is None:
            return None
        self.engine.table("sequences", [self._shard(number) for number in range(count)])
        told = {"split": self.options.split, "max_counted": self.options.max_counted}
        add = self.options.add
        if add is None or not add.has_counts(**told):
            self._pairs("sequences", "pairs", told)
            self.engine.copy(query.COUNTS.format("pairs"), self.out / shards.COUNTS)
        else:
            self._add_counts(add, told)
        pairs, total = shards.counts_sum(self.out)
        return {**told, "pairs": pairs, "sha256": total}

    def _pairs(self, sequences: str, name: str, told: dict[str, Any]) -> None:
        """Let a table of this name be who trains on what, of a table of sequences."""
        path = self.work / f"{name}.parquet"
        self.engine.copy(query.training_pairs(**told).format(sequences), path)
        self.engine.table(name, [path])

    def _add_counts(self, add: Prepared, told: dict[str, Any]) -> None:
        """Write the counts of earlier data, changed by what the users of the log had and have."""
        old = [shards.shard_path(add.path, number) for number in range(add.shards)]
        self.engine.table("old_sequences", old)
        self.engine.table("old_counts", [add.path / shards.COUNTS])
        changed = self.work / "changed.parquet"
        self.engine.copy(query.CHANGED, changed)
        self.engine.table("changed", [changed])
        for name, sequences in (("lost", "old_sequences"), ("won", "sequences")):
            self._pairs(query.OF_CHANGED.format(sequences), f"pairs_{name}", told)
            path = self.work / f"{name}.parquet"
            self.engine.copy(query.COUNTS.format(f"pairs_{name}"), path)
            self.engine.table(name, [path])
        self.engine.copy(query.SUMMED, self.out / shards.COUNTS)

    def _sum(self, number: int, count: int, users: int, summary: Summary) -> str:
        """The checksum of a shard, which is taken account of."""
        shard = shards.read_shard(self._shard(number), self.query.timed)
        rows = np.bincount(shard.user_index // count, minlength=-(-(users - number) // count))
        indptr = np.concatenate(([0], np.cumsum(rows)))
        tied = None if shard.moment is None else ties(shard.user_index, shard.moment)
        summary.add(indptr, shard.item_index, tied)
        return shard.sum()
