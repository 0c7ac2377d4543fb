"""From a log to sequences: filter, sort by time, index, and report what happened."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from rka_fast.data.data_report import DataReport, Dropped, Summary, Told
from rka_fast.data.readers import Interactions
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError

CHOICES = {
    "duplicates": ("keep", "drop"),
    "ties": ("file", "shuffle", "drop"),
    "repeats": ("keep", "drop"),
    "core": ("single", "iterated"),
}

_BLOCK = 1 << 20  # events whose times are converted at a time


@dataclass(frozen=True)
class Filters:
    """What to keep of a log. The rules apply in the order in which they stand here.

    min_rating: events rated lower are dropped; None keeps all.
    duplicates: where the log has times, "drop" all but the first of the rows that are equal in
        user, item and time, or "keep" them.
    ties: of a user's events at one time "drop" all but the first, "shuffle" them by `seed`, or
        leave them in the order of the "file".
    repeats: "keep", or "drop" all but the first event of every pair of user and item.
    min_user_events, min_item_events: users and items with fewer events are dropped.
    core: "single" counts both once, before either is dropped, as SASRec's files do, so fewer may
        be left; "iterated" repeats until every user and item left has enough (a k-core).
    """

    min_rating: float | None = None
    duplicates: Literal["keep", "drop"] = "drop"
    ties: Literal["file", "shuffle", "drop"] = "file"
    repeats: Literal["keep", "drop"] = "keep"
    min_user_events: int = 0
    min_item_events: int = 0
    core: Literal["single", "iterated"] = "single"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise DataError(f"{name}={getattr(self, name)!r}: expected {' or '.join(allowed)}")
        for name in ("min_user_events", "min_item_events"):
            if getattr(self, name) < 0:
                raise DataError(f"{name}={getattr(self, name)}: expected 0 or more")


def build_sequences(
    interactions: Interactions, filters: Filters | None = None, *, consume: bool = False
) -> tuple[Sequences, DataReport]:
    """Filter a log, sort every user's events by time and index users and items.

    Sorting is stable: ties, and logs without times, keep the order of the file. A column `part`
    comes before time: 0 trains, 1 validates, 2 tests. Indices follow the first appearance in the
    file. consume: take out of the frame what is used, so that it is there once. Raises DataError
    where `filters` asks for ratings that are not there or leaves nothing or one user.
    """
    filters = filters or Filters()
    frame = interactions.frame
    take = frame.drop_in_place if consume else frame.get_column
    columns, ids = {}, {}
    for name in ("user", "item"):
        columns[name], ids[name] = _index(take(name))
    columns |= {name: take(name).to_numpy() for name in ("timestamp", "part") if name in frame}
    timed = "timestamp" in columns
    if filters.min_rating is not None and "rating" in frame:
        columns["rating"] = take("rating").to_numpy()
    keys = [columns[name] for name in ("timestamp", "part", "user") if name in columns]
    if filters.ties == "shuffle" and timed:
        keys.insert(0, np.random.default_rng(filters.seed).permutation(len(keys[0])))
    order = np.lexsort(keys)
    del keys
    for name in columns:  # an event is its place in every column, from here on by user and time
        columns[name] = columns[name][order]
    del order
    dropped = []

    def keep(rule: str, kept: np.ndarray) -> None:
        before = len(kept), _number(columns["user"]), _number(columns["item"])
        for name in columns:
            columns[name] = columns[name][kept]
        after = int(kept.sum()), _number(columns["user"]), _number(columns["item"])
        dropped.append(Dropped(rule, *(old - new for old, new in zip(before, after, strict=True))))

    if filters.duplicates == "drop" and timed:
        equal = _equal_rows(columns["user"], columns["item"], columns["timestamp"])
        if equal.any():
            keep("duplicates=drop", ~equal)
        del equal
    if filters.ties == "drop" and timed:
        keep("ties=drop", ~ties(columns["user"], columns["timestamp"]))
    if filters.min_rating is not None:
        if "rating" not in columns:
            raise DataError(
                f"min_rating={filters.min_rating:g}: the data has no ratings (read as "
                f"{interactions.form}); leave it out, or name the column with --columns"
            )
        keep(f"min_rating={filters.min_rating:g}", columns["rating"] >= filters.min_rating)
    if filters.repeats == "drop":
        keep("repeats=drop", _first_of_pair(columns["user"], columns["item"]))
    if max(filters.min_user_events, filters.min_item_events) > 1:
        rule = (
            f"min_user_events={filters.min_user_events}, "
            f"min_item_events={filters.min_item_events} ({filters.core})"
        )
        keep(rule, _core(columns["user"], columns["item"], filters))

    counts = np.bincount(columns["user"])
    left = np.flatnonzero(counts)
    some = [ids["user"][index] for index in left[:1]]
    refuse_too_few(len(left), some, interactions.form, dropped)
    user, user_ids = _reindex(columns.pop("user"), ids.pop("user"))
    item, item_ids = _reindex(columns.pop("item"), ids.pop("item"))
    indptr = np.concatenate(([0], np.cumsum(counts[left]))).astype(np.int64)
    tied = ties(user, columns["timestamp"]) if timed else None
    del user
    item += 1
    time = seconds(columns.pop("timestamp"), interactions.dated) if timed else None
    part = columns["part"].astype(np.int8) if "part" in columns else None
    sequences = Sequences(indptr, item, user_ids, item_ids, time, part)
    summary = Summary(item_ids, filters.ties)
    summary.add(indptr, sequences.items, tied)
    told = Told(interactions.form, interactions.ordered, interactions.notes, interactions.warnings)
    return sequences, summary.report(told, dropped)


def seconds(time: np.ndarray, dated: bool) -> np.ndarray:
    """Float64 seconds of `Interactions` times; whole seconds stay whole.

    A double has not all the digits of nanoseconds.
    """
    if not dated:
        return time.astype(np.float64)
    found = np.empty(len(time))
    for begin in range(0, len(time), _BLOCK):
        some = time[begin : begin + _BLOCK]
        found[begin : begin + _BLOCK] = some // 10**9 + some % 10**9 / 1e9
    return found


def _index(ids: pl.Series) -> tuple[np.ndarray, list[str]]:
    """Indices from 0 in the order of first appearance, int32, and the ids they stand for."""
    index, known = np.empty(len(ids), np.int32), []
    number = np.empty(0, np.int32)  # of every category, -1 where it has not come
    begin = 0
    for part in ids.get_chunks():
        coded = part.cast(pl.Categorical)  # takes a quarter of the memory of a join
        codes = coded.to_physical().to_numpy()
        more = int(codes.max(initial=0)) + 1 - len(number)
        number = np.append(number, np.full(max(more, 0), -1, np.int32))
        new = coded.filter(pl.Series(number[codes] < 0)).unique(maintain_order=True)
        number[new.to_physical().to_numpy()] = np.arange(len(known), len(known) + len(new))
        known += new.cast(pl.String).to_list()
        index[begin : begin + len(codes)] = number[codes]
        begin += len(codes)
    return index, known


def _reindex(index: np.ndarray, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Close the gaps that dropped users or items left."""
    there = np.bincount(index, minlength=len(ids)) > 0
    if there.all():
        return index, ids
    new = np.cumsum(there, dtype=np.int32) - 1
    return new[index], [ids[old] for old in np.flatnonzero(there)]


def _number(index: np.ndarray) -> int:
    """How many different indices there are."""
    return int(np.count_nonzero(np.bincount(index)))


def ties(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """For events in order of user and time, which are at the time of the one before."""
    tied = np.zeros(len(user), bool)
    tied[1:] = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return tied


def _equal_rows(user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """For events in order of user and time, which equal one before in user, item and time."""
    tied = ties(user, time)
    equal = np.zeros(len(user), bool)
    if tied.any():
        # Only inside of ties can rows be equal; a tie is numbered by where it begins.
        inside = np.flatnonzero(tied | np.append(tied[1:], False))
        start = np.cumsum(~tied[inside])
        order = np.lexsort((item[inside], start))
        same = (np.diff(start[order]) == 0) & (np.diff(item[inside][order]) == 0)
        equal[inside[order[1:][same]]] = True
    return equal


def _first_of_pair(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    pair = user * np.int64(item.max(initial=0) + 1) + item
    first = np.zeros(len(pair), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    return first


def _core(user: np.ndarray, item: np.ndarray, filters: Filters) -> np.ndarray:
    kept = np.ones(len(user), bool)
    while True:
        users = np.bincount(user[kept], minlength=user.max(initial=0) + 1)
        items = np.bincount(item[kept], minlength=item.max(initial=0) + 1)
        enough = users[user] >= filters.min_user_events
        enough &= items[item] >= filters.min_item_events
        if filters.core == "single" or (enough >= kept).all():
            return kept & enough
        kept &= enough


def refuse_too_few(users: int, some: list[str], form: str, dropped: list[Dropped]) -> None:
    """Raise DataError where no users are left, or one. some: an id of those that are."""
    rules = "; ".join(f"{d.rule} dropped {d.events:,} events" for d in dropped)
    if users == 0:
        raise DataError(f"no events are left ({rules or 'the log is empty'}); relax the filters")
    if users == 1:
        raise DataError(
            f"only one user, {some[0]!r}, "
            + (
                f"is left ({rules}); relax the filters"
                if rules
                else f"in the data (read as {form}); "
                "check which column is the user, and name it with --columns"
            )
        )
