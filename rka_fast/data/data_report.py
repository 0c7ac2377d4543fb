"""What was read and kept of a log, found user by user, and what is doubtful about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

_QUANTILES = {"min": 0, "25%": 0.25, "median": 0.5, "75%": 0.75, "90%": 0.9, "max": 1}


@dataclass(frozen=True)
class Dropped:
    """How many events, and so users and items, one rule took away."""

    rule: str
    events: int
    users: int
    items: int


@dataclass(frozen=True)
class DataReport:
    """What was read and kept. `lengths` holds quantiles of the events of a user.

    short_users: users with fewer than 3 events; under leave-one-out they train only.
    ties: events at the same time as the user's event before, None without times.
    tied_targets: users with 3 events or more whose last is such an event.
    repeated: events with the item of the user's event before.
    notes: what was decided in reading, and what was left out.
    """

    form: str
    users: int
    items: int
    events: int
    density: float
    lengths: dict[str, float]
    short_users: int
    ties: int | None
    tied_targets: int | None
    repeated: int
    notes: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text, one entry a line."""
        quantiles = ", ".join(f"{name} {value:g}" for name, value in self.lengths.items())
        lines = [
            f"read as {self.form}",
            f"users {self.users:,}, items {self.items:,}, events {self.events:,}, "
            f"density {self.density:.3%}",
            f"events per user: {quantiles}",
            *self.notes,
        ]
        lines += [
            f"dropped by {d.rule}: {d.events:,} events, {d.users:,} users, {d.items:,} items"
            for d in self.dropped
        ]
        if self.short_users:
            have = "user has" if self.short_users == 1 else "users have"
            lines.append(f"{self.short_users:,} {have} fewer than 3 events")
        if self.ties is None:
            lines.append("no times: the order of the file is taken as the order in time")
            if self.repeated:
                lines.append(f"{self.repeated:,} events have the item of the one before")
        elif self.ties:
            targets = self.users - self.short_users
            lines.append(
                f"{self.ties:,} events ({self.ties / self.events:.0%}) tie in time with the one "
                f"before, among them the last of {self.tied_targets:,} of {targets:,} users"
            )
        return lines + [f"warning: {warning}" for warning in self.warnings]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DataReport:
        """The report that `to_json` gave."""
        return cls(**{**values, "dropped": [Dropped(**rule) for rule in values["dropped"]]})


@dataclass(frozen=True)
class Told:
    """What is known of a log beside its events: see `Interactions`."""

    form: str
    ordered: bool
    notes: list[str]
    warnings: list[str]


class Summary:
    """Sums over the users of a log, of which some are added at a time, and the report of them.

    item_ids: of the catalogue. ties: the filter of this name, "file" where ties stand in the order
    of the file.
    """

    def __init__(self, item_ids: list[str], ties: str) -> None:
        self._ids, self._ties = item_ids, ties
        self._lengths: list[np.ndarray] = []
        self._timed = False
        self._tied = self._tied_targets = self._repeated = self._rising = self._falling = 0

    @cached_property
    def _rank(self) -> np.ndarray:
        return _ranks(self._ids)

    def add(self, indptr: np.ndarray, items: np.ndarray, tied: np.ndarray | None) -> None:
        """Take account of users.

        indptr, items: see `Sequences`. tied: bool (events,), which are at the time of the user's
        event before; None without times.
        """
        lengths = np.diff(indptr)
        self._lengths.append(lengths)
        same_user = np.ones(max(len(items) - 1, 0), bool)
        same_user[indptr[1:-1] - 1] = False
        self._repeated += int((same_user & (np.diff(items) == 0)).sum())
        if tied is not None:
            self._timed = True
            self._tied += int(tied.sum())
            self._tied_targets += int(tied[indptr[1:][lengths >= 3] - 1].sum())
            after = 1 + np.flatnonzero(tied[1:])
            steps = self._rank[items[after] - 1] - self._rank[items[after - 1] - 1]
            self._rising += int((steps > 0).sum())
            self._falling += int((steps < 0).sum())

    def report(self, told: Told, dropped: list[Dropped]) -> DataReport:
        """The report of all that were added."""
        lengths = np.concatenate(self._lengths)
        events, steps = int(lengths.sum()), self._rising + self._falling
        warnings = list(told.warnings)
        if not told.ordered:
            warnings.append(
                "the data has no order: it has no times, and every user's items are sorted by id. "
                "The order of the file is taken as the order in time, so the targets are the items "
                "with the largest ids; the scores say little about what a user does next"
            )
        # Nearly all events of ties ascend (or descend) by item id, beyond chance.
        by_id = steps >= 20 and max(self._rising, self._falling) >= 0.95 * steps
        if by_id and self._ties == "file":
            warnings.append(
                f"{self._tied:,} events tie in time with the one before and stand in the order of "
                "the item ids, which is no order of choice: scores are too high where a model "
                "learns it. Compare with --ties shuffle"
            )
        return DataReport(
            form=told.form,
            users=len(lengths),
            items=len(self._ids),
            events=events,
            density=events / (len(lengths) * len(self._ids)),
            lengths={name: float(np.quantile(lengths, q)) for name, q in _QUANTILES.items()},
            short_users=int((lengths < 3).sum()),
            ties=self._tied if self._timed else None,
            tied_targets=self._tied_targets if self._timed else None,
            repeated=self._repeated,
            notes=list(told.notes),
            dropped=dropped,
            warnings=warnings,
        )


def _ranks(ids: list[str]) -> np.ndarray:
    """The place of every id in their order, by number where all are numbers, int64."""
    numbers = all(name.isdecimal() and len(name) < 19 for name in ids)
    order = np.argsort(np.array([int(name) for name in ids] if numbers else ids), kind="stable")
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    return rank
