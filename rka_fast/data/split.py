"""Which events train, validate and test: a training prefix of every user, and targets after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rka_fast.data.sequences import Sequences, UserItems

STAGES = ("valid", "test")
SEEN = ("hide", "keep")


class Targets(NamedTuple):
    """The events that a stage asks for, one a row, sorted by user and time.

    users: int64 (rows,). at: int64 (rows,), offset of the target in `Sequences.items`.
    """

    users: np.ndarray
    at: np.ndarray


MAX_COUNTED = 5_000
"""Events of a user that count in the co-occurrence: their square is the pairs that it may take."""

NOBODY = Targets(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Split:
    """Training prefixes, and the targets of validation and test.

    All offsets are absolute, into `sequences.items`; any rule that yields them makes a Split.

    train_end: int64 (num_users,), user u trains on items[indptr[u]:train_end[u]].
    valid, test: the targets; a user's history is everything it had before the target.
    future_hidden: whether what a user has after the target competes with it like any other item;
        otherwise nothing that the user ever has is a candidate beside the target.
    seen: "hide", what a user has had is never shown, so a target that it had before is a miss;
        or "keep", every item is a candidate for everybody. Recommending follows the same rule.
    max_counted: of a user's training events the last this many count in the co-occurrence.
    sampled_of: by stage how many users have targets, where only a sample of them is asked.
    """

    sequences: Sequences
    train_end: np.ndarray
    valid: Targets
    test: Targets
    future_hidden: bool = False
    seen: str = "hide"
    max_counted: int = MAX_COUNTED
    sampled_of: Mapping[str, int] = field(default_factory=dict)

    def targets(self, stage: str) -> Targets:
        """`valid` or `test`."""
        if stage not in STAGES:
            raise ValueError(f"stage={stage!r}: expected one of {', '.join(STAGES)}")
        return self.valid if stage == "valid" else self.test

    def target_items(self, stage: str) -> np.ndarray:
        """Item index of every target, int32 (rows,)."""
        return self.sequences.items[self.targets(stage).at]

    def history(self, row: int, stage: str) -> np.ndarray:
        """The items before the target of a row: for "test" they include the validation's."""
        users, at = self.targets(stage)
        return self.sequences.items[self.sequences.indptr[users[row]] : at[row]]

    @cached_property
    def training_events(self) -> np.ndarray:
        """Bool (events,): which events train."""
        owner = self.sequences.event_users
        return np.arange(len(owner)) < self.train_end[owner]

    @cached_property
    def training_items(self) -> UserItems:
        """Which user has which item among its training events."""
        return self._having(self.training_events)

    @property
    def over_counted(self) -> np.ndarray:
        """Int64 (num_users,): training events of every user beyond `max_counted`."""
        trained = self.train_end - self.sequences.indptr[:-1]
        return np.maximum(trained - self.max_counted, 0)

    @property
    def counted_events(self) -> np.ndarray:
        """Bool (events,): which training events count in the co-occurrence, each user's last."""
        owner = self.sequences.event_users
        first = self.sequences.indptr[:-1] + self.over_counted
        return self.training_events & (np.arange(len(owner)) >= first[owner])

    @cached_property
    def counted_items(self) -> UserItems:
        """Which user has which item among the events that count in the co-occurrence."""
        if not self.over_counted.any():
            return self.training_items
        return self._having(self.counted_events)

    def _having(self, which: np.ndarray) -> UserItems:
        s = self.sequences
        return UserItems(s.event_users[which], s.items[which], s.num_users, s.num_items)

    @property
    def holders(self) -> np.ndarray:
        """How many users train on each item, int64 (num_items + 1,)."""
        return self.training_items.holders

    @property
    def trained_users(self) -> int:
        """How many users have training events."""
        return int((self.training_items.distinct > 0).sum())

    def had(self, stage: str) -> np.ndarray:
        """Bool (rows,): whether the user had the target's item before."""
        return self._had[stage]

    def no_candidates(self, stage: str) -> UserItems:
        """Which row has which item that is no candidate beside its target.

        With seen="keep" that is the target alone; the first index is the row, not the user.
        """
        if self.seen == "keep":
            users, _ = self.targets(stage)
            s, items = self.sequences, self.target_items(stage)
            return UserItems(np.arange(len(users)), items, len(users), s.num_items)
        return self._hidden[stage]

    def train_counts(self) -> np.ndarray:
        """Training events of every item, int64 (num_items + 1,); index 0 is 0."""
        items = self.sequences.items[self.training_events]
        return np.bincount(items, minlength=self.sequences.num_items + 1)

    @cached_property
    def _had(self) -> dict[str, np.ndarray]:
        return {
            stage: self._rows_items(stage, whole=False).contains(
                np.arange(len(self.targets(stage).users)), self.target_items(stage)
            )
            for stage in STAGES
        }

    @cached_property
    def _hidden(self) -> dict[str, UserItems]:
        return {s: self._rows_items(s, whole=not self.future_hidden, target=True) for s in STAGES}

    def _rows_items(self, stage: str, whole: bool, target: bool = False) -> UserItems:
        """Which row has which item: before its target, with it, or in the user's whole life."""
        s, (users, at) = self.sequences, self.targets(stage)
        start = s.indptr[users]
        end = s.indptr[users + 1] if whole else at + target
        row = np.repeat(np.arange(len(users)), end - start)
        place = np.arange(len(row)) + (end - np.cumsum(end - start))[row]
        return UserItems(row, s.items[place], len(users), s.num_items)
