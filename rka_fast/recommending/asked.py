"""What a caller or a file names as those to recommend to, as histories."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import polars as pl

from rka_fast.data import columns, inputs
from rka_fast.data.readers import MAX_UNPACKED
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError, printable
from rka_fast.recommending.histories import Histories, everybody, of_lists, of_users, seconds
from rka_fast.recommending.tables import polars_frame, table_in

Lists = dict[str, list[Any]]
WHOM = "ids of users, or histories that are lists of item ids"


def is_frame(value: object) -> TypeGuard[Any]:
    """Whether it is a data frame, of polars or pandas."""
    return isinstance(value, pl.LazyFrame) or hasattr(value, "columns")


def histories_of(
    of: Any,
    sequences: Sequences,
    *,
    times: Any = None,
    at: float | None = None,
    unknown: str | None = None,
) -> Histories:
    """Histories of whoever `of` names; see `Run.recommend`. Raises DataError.

    unknown: "skip" leaves unknown items out, "refuse" raises DataError; None refuses in a single
    history, where it is a slip, and skips in several.
    """
    if unknown not in (None, "skip", "refuse"):
        raise DataError(f"unknown must be skip or refuse, got {unknown!r}")
    users, lists, when = _named(of, times)
    if times is not None and (lists is None or is_frame(of)):
        raise DataError(
            "times go with histories in a list or a dictionary: users of the data have their own, "
            "and a frame has them in its column timestamp; leave times out"
        )
    if lists is not None:
        skip = unknown == "skip" or (unknown is None and len(lists) > 1)
        return of_lists(sequences, lists, when, at, skip)
    return everybody(sequences, at) if users is None else of_users(sequences, users, at)


def _named(
    of: Any, times: Any
) -> tuple[list[Any] | None, Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Ids of users, or histories by name and their times; all None for everybody in the data."""
    if of is None:
        return None, None, None
    if is_frame(of):
        frame = polars_frame(of)
        roles = columns.recognise(frame.columns)
        if "item" in roles:
            return None, *from_frame(frame)
        users = _column(frame, roles, "user").to_list()
        if not users:
            raise DataError("nobody was named: the frame has no row")
        return users, None, None
    if isinstance(of, Mapping):
        if not of:
            raise DataError("nobody was named: the dictionary is empty")
        if not (times is None or isinstance(times, Mapping)):
            raise DataError(
                "times: expected a dictionary with the names of the histories, got "
                f"{printable(repr(times))}"
            )
        if wrong := [name for name in of if not is_id(name)]:
            raise DataError(f"of: expected text or numbers as names, got {wrong[0]!r}")
        return None, _by_name(of), None if times is None else _by_name(times)
    if is_id(of):
        return [of], None, None
    given = listed(of, f"of: expected {WHOM}")
    if not given:
        raise DataError("nobody was named: the list is empty")
    if all(map(is_id, given)):
        return given, None, None
    if any(map(is_id, given)):
        one = next(filter(is_id, given))
        raise DataError(
            f"of: expected {WHOM}, got both: "
            f"{one!r} beside a list; write [{one!r}] for a history of one item"
        )
    if times is not None:
        times = _numbered(listed(times, "times: expected a list of times for each history"))
    return None, _numbered(given), times


def read_histories(path: str) -> tuple[Lists, Lists | None]:
    """Histories of a file, and their times where it has them.

    A table (CSV, TSV, Parquet) with a header and the columns user, item and perhaps a time, one
    event a row, oldest first unless there is a time; or JSON, or a JSON document a line: a list of
    ids, {"user": ..., "items": [...], "times": [...]}, or {name: [ids]}. Raises DataError.
    """
    content = content_of(path)
    if content[:4] != b"PAR1":
        text = inputs.decode(content, path).decode()
        if text.lstrip()[:1] in ("{", "["):
            return _from_json(text, path)
    return from_frame(table_in(content, path), path)


def from_frame(
    frame: pl.DataFrame, path: str = "frame", *, of_one: bool = True
) -> tuple[Lists, Lists | None]:
    """One event a row; users in the order in which they come. Raises DataError.

    of_one: whether a frame without a column `user` is the history of one, called "0".
    """
    roles = columns.recognise(frame.columns)
    table = pl.DataFrame({"item": _column(frame, roles, "item", path)})
    if "user" in roles or not of_one:
        table = table.with_columns(user=_column(frame, roles, "user", path))
    else:
        table = table.with_columns(user=pl.lit("0"))
    timed = "timestamp" in roles
    if timed:
        table = table.with_columns(time=_times(frame.to_series(roles["timestamp"])))
    table = table.fill_nan(None)
    if table.is_empty():
        raise DataError(f"{path} has no history: there is no row below the header")
    if table.null_count().sum_horizontal()[0]:
        raise DataError(f"{path}: a row lacks its user, item or time; leave such rows out")
    order = table.select(pl.col("user").unique(maintain_order=True))
    if timed:
        table = table.sort("time", maintain_order=True)
    lists = table.group_by("user").agg(pl.all())
    lists = order.join(lists, on="user", how="left", maintain_order="left")
    names = [name_of(name) for name in lists["user"]]
    items = dict(zip(names, lists["item"].to_list(), strict=True))
    return items, dict(zip(names, lists["time"].to_list(), strict=True)) if timed else None


def _times(column: pl.Series) -> pl.Series:
    """Seconds since 1970."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    return column.map_elements(seconds, pl.Float64)


def columns_of(frame: Any, what: str) -> dict[str, list[Any]]:
    """The columns item and, where there is one, user of a frame. Raises DataError."""
    table = polars_frame(frame)
    roles = columns.recognise(table.columns)
    found = {"item": _column(table, roles, "item", what).to_list()}
    if "user" in roles:
        found["user"] = table.to_series(roles["user"]).to_list()
    return found


def _column(
    frame: pl.DataFrame, roles: dict[str, int], role: str, path: str = "frame"
) -> pl.Series:
    if role not in roles:
        raise DataError(
            f"{path}: expected a column {role!r}, got {', '.join(map(printable, frame.columns))}; "
            "name the columns user, item and, where the model reads times, timestamp"
        )
    return frame.to_series(roles[role])


def _from_json(text: str, path: str) -> tuple[Lists, Lists | None]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise DataError(f"{path}: {printable(name)} stands twice in one object")
            found[name] = value
        return found

    try:
        try:
            value = json.loads(text, object_pairs_hook=once)
        except json.JSONDecodeError:
            lines = (line for line in io.StringIO(text) if line.strip())
            value = [json.loads(line, object_pairs_hook=once) for line in lines]
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is neither JSON nor JSON lines: {error}") from None
    records = value if isinstance(value, list) else [value]
    if records and all(map(is_id, records)):
        records = [records]  # one history
    lists, times = {}, {}
    for number, record in enumerate(records):
        for name, items, when in _histories_in(record, number, path):
            if name in lists:
                raise DataError(f"{path}: {printable(name)} has two histories")
            lists[name] = items
            if when is not None:
                times[name] = when
    if not lists:
        raise DataError(f"{path} has no history")
    if times and len(times) < len(lists):
        name = next(name for name in lists if name not in times)
        raise DataError(
            f"{path}: the history of {printable(name)} has no times, though others have"
        )
    return lists, times or None


def _histories_in(record: Any, number: int, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(record, list):
        return [(str(number), record, None)]
    if not isinstance(record, dict):
        raise DataError(
            f"{path}: expected lists of item ids, or objects with user and items, got {record!r}"
        )
    known = [key for key in ("items", "history", "item") if isinstance(record.get(key), list)]
    if known:
        name = record.get("user", str(number))
        if not is_id(name):
            raise DataError(f"{path}: user {name!r}: expected text or a number")
        name = name_of(name)
        return [(name, record[known[0]], record.get("times", record.get("timestamps")))]
    return [(name, items, None) for name, items in _by_name(record).items()]


def _by_name(lists: Mapping[Any, Any]) -> Lists:
    return {name_of(name): items for name, items in lists.items()}


def _numbered(lists: list[Any]) -> Lists:
    """Lists by their number, counted from 0."""
    return {str(number): items for number, items in enumerate(lists)}


def listed(given: Any, expected: str) -> list[Any]:
    """The elements of what is a list or like one. Raises DataError that says what was expected."""
    try:
        if not isinstance(given, Mapping):
            return list(given)
    except TypeError:
        pass
    raise DataError(f"{expected}, got {printable(repr(given))}")


def name_of(of: Any) -> str:
    """An id as text; a whole number that a table holds as 7.0 is 7."""
    return str(int(of)) if isinstance(of, float) and of.is_integer() else str(of)


def is_id(value: Any) -> bool:
    """Whether it may be the id of a user or an item, rather than a list of them."""
    return isinstance(value, (str, int, float, np.integer, np.floating, bytes))


def read_ids(path: str) -> tuple[list[str], list[str] | None]:
    """Item ids of a file, one a line or in a column `item`, or a JSON list; users where it has a
    column of them. Raises DataError."""
    content = content_of(path)
    if content.lstrip()[:1] == b"[":
        try:
            return list(json.loads(content)), None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON: {error}") from None
    frame = table_in(content, path, one_column=True)
    roles = columns.recognise(frame.columns)
    if frame.width == 1:
        return frame.to_series(0).drop_nulls().to_list(), None
    items = _column(frame, roles, "item", path).to_list()
    return items, frame.to_series(roles["user"]).to_list() if "user" in roles else None


def content_of(path: str | os.PathLike) -> bytes:
    """The content of one file, unpacked. Raises DataError."""
    found = inputs.find([path], MAX_UNPACKED)
    if len(found) > 1:
        raise DataError(f"{path}: expected one file, got {len(found)}")
    return found[0].content()
