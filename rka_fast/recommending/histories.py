"""Who is recommended to: histories of items, of users of the data or of anybody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from rka_fast.data.sequences import Sequences
from rka_fast.data.split_rules import iso_seconds
from rka_fast.errors import DataError, printable

NAMED = 5  # unknown ids that a message names


@dataclass(frozen=True, eq=False)
class Histories:
    """Histories of item indices, oldest first, one after the other.

    names: string (B,), who each one is. users: int64 (B,), -1 for a person not in the data. indptr:
    int64 (B + 1,), row b owns items[indptr[b]:indptr[b + 1]]; a row may be empty. times: float64 of
    the events, or None. at: when it is asked. Times are seconds since 1970. skipped: events with
    unknown items that were left out.
    """

    names: pl.Series
    users: np.ndarray
    indptr: np.ndarray
    items: np.ndarray
    times: np.ndarray | None = None
    at: float | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> np.ndarray:
        """Events of every history, int64 (B,)."""
        return np.diff(self.indptr)

    def between(self, first: int, last: int) -> Histories:
        """Rows first..last - 1."""
        which = slice(self.indptr[first], self.indptr[last])
        return replace(
            self,
            names=self.names[first:last],
            users=self.users[first:last],
            indptr=self.indptr[first : last + 1] - self.indptr[first],
            items=self.items[which],
            times=None if self.times is None else self.times[which],
        )

    def rows(self, which: np.ndarray) -> Histories:
        """Some rows, in this order."""
        lengths = self.lengths[which]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(indptr[-1]) + np.repeat(self.indptr[which] - indptr[:-1], lengths)
        return replace(
            self,
            names=self.names.gather(which),
            users=self.users[which],
            indptr=indptr,
            items=self.items[place],
            times=None if self.times is None else self.times[place],
        )


def everybody(sequences: Sequences, at: float | None = None) -> Histories:
    """All users of the data with all that they had."""
    names = pl.Series(sequences.user_ids, dtype=pl.String)
    users = np.arange(sequences.num_users)
    return Histories(names, users, sequences.indptr, sequences.items, sequences.timestamps, at)


def of_users(sequences: Sequences, users: Iterable[Any], at: float | None = None) -> Histories:
    """Users of the data by their ids. Raises DataError that names unknown ones."""
    return everybody(sequences, at).rows(_indices(sequences, list(users), "user"))


def of_lists(
    sequences: Sequences,
    histories: Mapping[str, Any],
    times: Mapping[str, Any] | None = None,
    at: float | None = None,
    skip_unknown: bool = False,
) -> Histories:
    """Anybody's histories of item ids by name, oldest first.

    times: of the events, as `seconds` reads them. skip_unknown: leave unknown items out. Raises
    DataError that names them otherwise, and for a history that is no list of ids.
    """
    if times is not None and (others := [name for name in times if name not in histories]):
        raise DataError(f"times: {printable(others[0])} is the name of no history")
    names, lengths, flat, when = [], [], [], []
    for name, items in histories.items():
        if hasattr(items, "to_list"):  # a column of polars or pandas
            items = items.to_list()
        if isinstance(items, (str, bytes)) or not isinstance(items, (Sequence, np.ndarray)):
            remedy = f"; write [{items!r}] for one item" if isinstance(items, (str, int)) else ""
            raise DataError(
                f"history {printable(name)}: expected a list of item ids, got "
                f"{printable(repr(items))}{remedy}"
            )
        names.append(name)
        lengths.append(len(items))
        flat.extend(items)
        if times is not None:
            given = times.get(name)
            if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, (str, bytes)):
                raise DataError(
                    f"history {printable(name)}: expected a list of times, one of each item, got "
                    f"{given!r}"
                )
            if len(given) != len(items):
                raise DataError(
                    f"history {printable(name)}: expected a time for each of its {len(items)} "
                    f"items, got {len(given)}"
                )
            when.extend(seconds(time) for time in given)
    found = _indices(sequences, flat, "item", missing=skip_unknown)
    row = np.repeat(np.arange(len(names)), lengths)
    known = found >= 0
    counts = np.bincount(row[known], minlength=len(names))
    return Histories(
        pl.Series(names, dtype=pl.String),
        np.full(len(names), -1),
        np.concatenate([[0], np.cumsum(counts)]),
        found[known],
        np.array(when, np.float64)[known] if times is not None else None,
        at,
        int((~known).sum()),
    )


def item_indices(sequences: Sequences, items: Iterable[Any], missing: bool = False) -> np.ndarray:
    """Indices of item ids, int64; of unknown ones -1 where they may be missing.

    Raises DataError that names them otherwise.
    """
    return _indices(sequences, list(items), "item", missing)


def _indices(
    sequences: Sequences, ids: Sequence[Any], kind: str, missing: bool = False
) -> np.ndarray:
    known = sequences.indices(kind)
    texts = [_text(of, kind, known) for of in ids]
    found = np.array([known.get(text, -1) for text in texts], np.int64)
    if missing or (found >= 0).all():
        return found
    unknown = list(dict.fromkeys(texts[i] for i in np.flatnonzero(found < 0)))
    named = ", ".join(repr(text) for text in unknown[:NAMED])
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    other = "item" if kind == "user" else "user"
    message = (
        f"unknown {kind} id{'s' * (len(unknown) > 1)} {named}{more}; ids look like "
        f"{', '.join(map(printable, list(known)[:3]))}"
    )
    if unknown[0] in sequences.indices(other):
        message += f"; {unknown[0]!r} is the id of {'an item' if other == 'item' else 'a user'}"
        if kind == "user":
            message += ": a history is a list inside a list, [[id, ...]], or --history"
    raise DataError(message)


def _text(of: Any, kind: str, known: Mapping[str, int]) -> str:
    """An id as the data has it: numbers as they are written there, and, as reading a log takes
    blanks around ids away, without them where it is not known with them."""
    if isinstance(of, str):
        return of if of in known or of.strip() not in known else of.strip()
    if isinstance(of, (int, np.integer)) and not isinstance(of, bool):
        return str(int(of))
    if isinstance(of, (float, np.floating)) and math.isfinite(of):
        text = str(float(of))
        return text if text in known or of != int(of) else str(int(of))
    raise DataError(f"{kind} id {of!r}: expected text or a number, got {type(of).__name__}")


def seconds(value: Any, name: str = "time") -> float:
    """Seconds since 1970 of a number or an ISO date. Raises DataError."""
    if hasattr(value, "timestamp"):  # a datetime
        value = value.isoformat()
    try:
        found = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = iso_seconds(str(value).strip())
    if found is None or not math.isfinite(found):
        raise DataError(
            f"{name} {value!r}: expected seconds since 1970 or an ISO date, as 2020-01-31T18:30"
        )
    return found
