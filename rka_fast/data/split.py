"""Which events train, validate and test: leave-one-out, or two boundaries in time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rka_fast.data.sequences import Sequences, UserItems
from rka_fast.errors import DataError

STAGES = ("valid", "test")
BOUNDARIES = (0.8, 0.9)  # quantiles of the event times at which validation and test begin


@dataclass(frozen=True, eq=False)
class Split:
    """Training prefixes and at most one target per user and stage.

    All offsets are absolute, into `sequences.items`; any rule that yields them makes a Split.

    train_end: int64 (num_users,), user u trains on items[indptr[u]:train_end[u]].
    valid_at, test_at: int64 (num_users,), offset of the target; -1 where the user has none.
    future_hidden: whether what a user has after the target competes with it like any other item;
        otherwise all that the user ever has is left out of the candidates.
    """

    sequences: Sequences
    train_end: np.ndarray
    valid_at: np.ndarray
    test_at: np.ndarray
    future_hidden: bool = False

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

    def known_items(self, stage: str) -> UserItems:
        """Which user has which item that is no candidate beside its target of the stage."""
        self.target_offsets(stage)
        return self._known[stage] if self.future_hidden else self.all_items

    def train_counts(self) -> np.ndarray:
        """Training events of every item, int64 (num_items + 1,); index 0 is 0."""
        items = self.sequences.items[self.training_events]
        return np.bincount(items, minlength=self.sequences.num_items + 1)

    @cached_property
    def _known(self) -> dict[str, UserItems]:
        owner = self.sequences.event_users
        return {
            stage: self._user_items(np.arange(len(owner)) <= self.target_offsets(stage)[owner])
            for stage in STAGES
        }

    def _target(self, offsets: np.ndarray) -> np.ndarray:
        return np.where(offsets >= 0, self.sequences.items[offsets], 0).astype(np.int32)

    def _user_items(self, which: np.ndarray | slice) -> UserItems:
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


def time_boundaries(sequences: Sequences) -> tuple[float, float]:
    """The times at which validation and test begin: the BOUNDARIES quantiles of all event times.

    Raises DataError where the data has no times.
    """
    if sequences.timestamps is None:
        raise DataError(
            "the time split needs the time of every event and this data has none; name the "
            "column with --columns user,item,rating,timestamp, or use --split leave-one-out"
        )
    valid, test = np.quantile(sequences.timestamps, BOUNDARIES, method="higher").tolist()
    return valid, test


def time_split(sequences: Sequences) -> Split:
    """Two boundaries in time, the same for all users: what came before the first one trains.

    A user's first event from the first boundary on, and before the second, validates; its first
    event from the second on tests. The history is everything the user had before the target, so
    the model is asked what it would be asked on the day it was trained. Users without such an
    event, or without a history, are not evaluated in that stage. Leave-one-out instead trains on
    what other users did after a user's target (Meng et al., RecSys 2020; Ji et al., ACM TOIS
    2023, whose remedy is one time line for all users).

    Raises DataError where the data has no times, or one of the stages has nobody.
    """
    boundaries = time_boundaries(sequences)
    start, end = sequences.indptr[:-1].astype(np.int64), sequences.indptr[1:].astype(np.int64)
    # Users are in time order, so what came before a boundary is a prefix of each.
    valid, test = (
        start
        + np.bincount(
            sequences.event_users[sequences.timestamps < boundary], minlength=sequences.num_users
        )
        for boundary in boundaries
    )
    split = Split(
        sequences,
        train_end=valid,
        valid_at=np.where((start < valid) & (valid < test), valid, -1),
        test_at=np.where((start < test) & (test < end), test, -1),
        future_hidden=True,
    )
    for stage in STAGES:
        if len(split.users(stage)) == 0:
            raise DataError(
                f"no user has an event in the {stage} period and one before it (the periods begin "
                f"at times {boundaries[0]:g} and {boundaries[1]:g}); check the column of the "
                "times, use more data, or --split leave-one-out"
            )
    return split


class SplitRule:
    """A way to split: which events of any log train, validate and test.

    name: of the setting. title: in tables. rule: the rule in a sentence.
    """

    def __init__(
        self, name: str, title: str, rule: str, make: Callable[[Sequences], Split]
    ) -> None:
        self.name, self.title, self.rule, self._make = name, title, rule, make

    def __call__(self, sequences: Sequences) -> Split:
        """The split of a log. Raises DataError where the rule cannot be followed."""
        return self._make(sequences)

    def describe(self, sequences: Sequences) -> tuple[dict[str, Any], list[str]]:
        """What it came to on a log, as JSON-able facts and as lines for a person."""
        return {}, []


class _TimeSplit(SplitRule):
    def describe(self, sequences: Sequences) -> tuple[dict[str, Any], list[str]]:
        valid, test = time_boundaries(sequences)
        line = f"{self.title}: validation begins at {valid:.15g}, test at {test:.15g}"
        return {"boundaries": (valid, test)}, [line]


SPLITS: dict[str, SplitRule] = {
    rule.name: rule
    for rule in (
        SplitRule(
            "leave-one-out",
            "leave-one-out",
            "leave-one-out: a user's last event tests, the one before validates",
            leave_one_out,
        ),
        _TimeSplit(
            "time",
            "split by time",
            "by time: events before one point train, each user's next after it and after a second "
            "point validate and test",
            time_split,
        ),
    )
}
"""The splits by the name of the setting `split`."""

if TYPE_CHECKING:
    SplitName = str
else:
    SplitName = Literal[tuple(SPLITS)]  # so that a command line lists them
