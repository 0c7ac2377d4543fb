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

    items: ids, the only ones that may be shown; exclude: ids that may not, or ids by name of a
    history, or a frame with the columns user and item. Raises DataError.
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

    only = None if items is None else known(_ids(items, "items"), "items")
    never = excluded = None
    if exclude is not None:
        users, ids = _pairs(exclude)
        found = known(ids, "exclude")
        if users is None:
            never = found[found >= 0]
        else:
            rows_of: dict[str, list[int]] = {}  # a user may be asked for more than once
            for row, name in enumerate(histories.names):
                rows_of.setdefault(name, []).append(row)
            names = [str(user) if str(user) in rows_of else name_of(user) for user in users]
            pairs = [
                (row, item)
                for name, item in zip(names, found.tolist(), strict=True)
                if item > 0
                for row in rows_of.get(name, ())
            ]
            if not any(name in rows_of for name in names):
                notes.append("exclude: none of its users is asked for")
            rows, hidden = np.array(pairs, np.int64).reshape(-1, 2).T
            excluded = UserItems(rows, hidden, len(histories), sequences.num_items)
    only = only if only is None else only[only >= 0]
    return Shown.of(sequences, seen, only, never, excluded), notes


def _pairs(exclude: Any) -> tuple[list[Any] | None, list[Any]]:
    """Users, or None for everybody, and item ids."""
    if is_frame(exclude):
        found = columns_of(exclude, "exclude")
        return found.get("user"), found["item"]
    if isinstance(exclude, Mapping):
        pairs = [(name, item) for name, items in exclude.items() for item in _ids(items, "exclude")]
        return [name for name, _ in pairs], [item for _, item in pairs]
    return None, _ids(exclude, "exclude")


def _ids(given: Any, what: str) -> list[Any]:
    if isinstance(given, (str, bytes)):
        raise DataError(f"{what}: expected a list of item ids, got {given!r}; write [{given!r}]")
    if is_frame(given):
        return columns_of(given, what)["item"]
    return listed(given, f"{what}: expected a list of item ids")
