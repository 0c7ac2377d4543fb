"""Which events train, validate and test."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rka_fast.data.errors import DataError
from rka_fast.data.sequences import Sequences, UserItems

STAGES = ("valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Training prefixes and at most one target per user and stage.

    All offsets are absolute, into `sequences.items`; any rule that yields them makes a Split.

    train_end: int64 (num_users,), user u trains on items[indptr[u]:train_end[u]].
    valid_at, test_at: int64 (num_users,), offset of the target; -1 where the user has none.
    """

    sequences: Sequences
    train_end: np.ndarray
    valid_at: np.ndarray
    test_at: np.ndarray

    @cached_property
    def valid_target(self) -> np.ndarray:
        """Item index of the validation target, int32 (num_users,); 0 where there is none."""
        return self._target(self.valid_at)

    @cached_property
    def test_target(self) -> np.ndarray:
        """Item index of the test target, int32 (num_users,); 0 where there is none."""
        return self._target(self.test_at)

    def targets(self, stage: str) -> np.ndarray:
        """`valid_target` or `test_target`."""
        self.target_offsets(stage)
        return self.valid_target if stage == "valid" else self.test_target

    def target_offsets(self, stage: str) -> np.ndarray:
        """`valid_at` or `test_at`; a user's history ends there."""
        if stage not in STAGES:
            raise ValueError(f"stage={stage!r}: expected one of {', '.join(STAGES)}")
        return self.valid_at if stage == "valid" else self.test_at

    def users(self, stage: str) -> np.ndarray:
        """Users that are evaluated in this stage, sorted, int64."""
        return np.flatnonzero(self.target_offsets(stage) >= 0)

    def history(self, user: int, stage: str) -> np.ndarray:
        """Events before the target: for "test" they include the validation item."""
        end = self.target_offsets(stage)[user]
        if end < 0:
            raise DataError(
                f"user {self.sequences.user_ids[user]!r} has no {stage} target: it trains only"
            )
        return self.sequences.items[self.sequences.indptr[user] : end]

    @cached_property
    def training_events(self) -> np.ndarray:
        """Bool (events,): which events train."""
        owner = self.sequences.event_users
        return np.arange(len(owner)) < self.train_end[owner]

    @cached_property
    def training_items(self) -> UserItems:
        """Which user has which item among its training events."""
        return self._user_items(self.training_events)

    @cached_property
    def all_items(self) -> UserItems:
        """Which user has which item at all."""
        return self._user_items(slice(None))

    def train_counts(self) -> np.ndarray:
        """Training events of every item, int64 (num_items + 1,); index 0 is 0."""
        items = self.sequences.items[self.training_events]
        return np.bincount(items, minlength=self.sequences.num_items + 1)

    def _target(self, offsets: np.ndarray) -> np.ndarray:
        return np.where(offsets >= 0, self.sequences.items[offsets], 0).astype(np.int32)

    def _user_items(self, which) -> UserItems:
        s = self.sequences
        return UserItems(s.event_users[which], s.items[which], s.num_users, s.num_items)


def leave_one_out(sequences: Sequences) -> Split:
    """The last event of every user tests, the one before validates, the rest trains.

    Users with fewer than 3 events train only. Raises DataError where no user has 3.
    """
    end = sequences.indptr[1:].astype(np.int64)
    evaluated = sequences.lengths >= 3
    if not evaluated.any():
        raise DataError(
            f"no user has 3 events (the longest of {sequences.num_users} has "
            f"{sequences.lengths.max(initial=0)}): leave-one-out needs one to train, one to "
            "validate and one to test; check which column is the user, or relax the filters"
        )
    return Split(
        sequences,
        train_end=np.where(evaluated, end - 2, end),
        valid_at=np.where(evaluated, end - 2, -1),
        test_at=np.where(evaluated, end - 1, -1),
    )
