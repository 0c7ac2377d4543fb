"""One request for recommendations, made ready: who, which items, how ranked, how told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from rka_fast.data.sequences import Sequences, UserItems
from rka_fast.errors import DataError
from rka_fast.recommending.asked import columns_of, is_frame, listed, name_of
from rka_fast.recommending.histories import Histories, item_indices
from rka_fast.recommending.lists import POPULARITY, Lister
from rka_fast.recommending.options import Shown
from rka_fast.recommending.ranking import Ranker


@dataclass
class Plan:
    """What makes the lists of some histories. notes: what a person should know of them."""

    histories: Histories
    ranker: Ranker
    lister: Lister
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.histories)

    def tables(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """The lists of histories first..last - 1, in parts with the number of their histories."""
        last = len(self) if last is None else min(last, len(self))
        rows = self.ranker.at_once
        for start in range(first, last, rows):
            part = self.histories.between(start, min(start + rows, last))
            yield len(part), self.lister(part, self.ranker(part, start))

    def table(self, first: int = 0, last: int | None = None) -> pl.DataFrame:
        """The lists of histories first..last - 1 as one table."""
        return pl.concat(table for _, table in self.tables(first, last))


def notes_of(histories: Histories) -> list[str]:
    """What was left out of the histories, and whom popularity is shown to."""
    notes = []
    if histories.skipped:
        events = "1 event" if histories.skipped == 1 else f"{histories.skipped:,} events"
        notes.append(f"left out {events} with items that are not in the catalogue of this run")
    if cold := int((histories.lengths == 0).sum()):
        whose = "1 history has" if cold == 1 else f"{cold:,} histories have"
        notes.append(
            f"{whose} no known item: the most popular items stand there, with their number of "
            f"training events as score (column by: {POPULARITY})"
        )
    return notes


def shown_to(
    histories: Histories, sequences: Sequences, seen: str, items: Any, exclude: Any
) -> tuple[Shown, list[str]]:
    """Which items may be shown to these histories, and notes on ids that are unknown.

    items: ids, the only ones that may be shown; exclude: ids that may not. Either may be ids by
    name of a history, or a frame with the columns user and item. Raises DataError.
    """
    notes: list[str] = []

    def known(ids: list[Any], what: str) -> np.ndarray:
        found = item_indices(sequences, ids, missing=True)
        unknown = int((found < 0).sum())
        if unknown == len(found):
            item_indices(sequences, ids)  # names them
            raise DataError(f"{what}: no item is given")
        if unknown:
            notes.append(f"{what}: {unknown:,} of {len(found):,} items are not in the catalogue")
        return found

    def read(given: Any, what: str) -> tuple[np.ndarray | None, UserItems | None]:
        """Items, and which row they hold for where they are of users."""
        if given is None:
            return None, None
        users, ids = _pairs(given, what)
        found = known(ids, what)
        of_rows = None
        if users is not None:
            rows, of_each, asked = _rows(users, found, histories)
            if not asked:
                notes.append(f"{what}: none of its users is asked for")
            of_rows = UserItems(rows, of_each, len(histories), sequences.num_items)
        return found[found >= 0], of_rows

    only, allowed = read(items, "items")
    never, excluded = read(exclude, "exclude")
    if excluded is not None:
        never = None
    return Shown.of(sequences, seen, only, never, excluded, allowed), notes


def _rows(
    users: list[Any], items: np.ndarray, histories: Histories
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs of user and item as those of row and item, and whether any of the users is asked for.

    A user may be asked for more than once.
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(histories.names):
        rows_of.setdefault(name, []).append(row)
    names = [str(user) if str(user) in rows_of else name_of(user) for user in users]
    pairs = [
        (row, item)
        for name, item in zip(names, items.tolist(), strict=True)
        if item > 0
        for row in rows_of.get(name, ())
    ]
    rows, of_each = np.array(pairs, np.int64).reshape(-1, 2).T
    return rows, of_each, any(name in rows_of for name in names)


def _pairs(given: Any, what: str) -> tuple[list[Any] | None, list[Any]]:
    """Users, or None for everybody, and item ids."""
    if is_frame(given):
        found = columns_of(given, what)
        return found.get("user"), found["item"]
    if isinstance(given, Mapping):
        pairs = [(name, item) for name, items in given.items() for item in _ids(items, what)]
        return [name for name, _ in pairs], [item for _, item in pairs]
    return None, _ids(given, what)


def _ids(given: Any, what: str) -> list[Any]:
    if isinstance(given, (str, bytes)):
        raise DataError(f"{what}: expected a list of item ids, got {given!r}; write [{given!r}]")
    return listed(given, f"{what}: expected a list of item ids")
