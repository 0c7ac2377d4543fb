"""From a split to the tensors a model takes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rka_fast.data.counting import Counts
from rka_fast.data.sequences import UserItems, distinct, left_padded
from rka_fast.data.split import STAGES, Split
from rka_fast.errors import DataError

# What a generator is for. Each purpose has its own numbers under the same (seed, step).
_ORDER, _NEGATIVES, _KERNEL_ITEMS, _CANDIDATES = range(4)

NEGATIVES = 100  # a target is ranked against, where as many are left
ROWS_AT_ONCE = 2**12  # of sampled candidates that are drawn together


class Batch(NamedTuple):
    """One batch, on the CPU; a field that was not asked for is None.

    users: int64 (B,), -1 for a person without training events.
    items: int64 (B, n), left padded with 0.
    targets: int64 (B, n), the item after every position; 0 = none.
    negatives: int64 (B, n, k), items outside the user's training set, 0 where there is no target;
        (B, k), the same for all positions of a sequence; or (k,), any items, for all of a batch.
    cooccurrence: float32 (B, n, n), counts at every pair of positions.
    kernel_items: int64 (S,), distinct items of the batch; kernel_counts: float32 (S, S), plain
        counts between them.
    times: int64 (B, n), of the events of `items`, in seconds since 1970; 0 at padding.
    request_times: int64 (B, n), of the event that follows every position; of the last one in
        recommending the time that is asked for.
    """

    users: Tensor
    items: Tensor
    targets: Tensor | None = None
    negatives: Tensor | None = None
    cooccurrence: Tensor | None = None
    kernel_items: Tensor | None = None
    kernel_counts: Tensor | None = None
    times: Tensor | None = None
    request_times: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        moved: Any = (x if x is None else x.to(device, non_blocking=True) for x in self)
        return Batch(*moved)


class Batcher:
    """Makes batches. Every random choice is a function of (seed, step) or (seed, epoch) alone.

    cooccurrence: None leaves the counts out of every batch.
    max_length: n, the width of training's batches; longer histories keep their last n items.
    negatives: k per position, uniform over items outside the user's training set.
    shared_negatives: "none"; or "sequence", k for all positions of a user together; or "batch", k
        for all of a batch, uniform over all items.
    leave_self_out: take a training user's own contribution out of its counts.
    times: add those of the events and of the requests.
    kernel_loss: add up to `kernel_items` distinct items of the batch and their plain counts.
    """

    def __init__(
        self,
        split: Split,
        cooccurrence: Counts | None,
        max_length: int,
        seed: int,
        negatives: int = 0,
        leave_self_out: bool = True,
        kernel_loss: bool = False,
        kernel_items: int = 512,
        shared_negatives: str = "none",
        times: bool = False,
    ) -> None:
        if kernel_loss and cooccurrence is None:
            raise ValueError("kernel_loss=True needs cooccurrence, got None")
        num_items = split.sequences.num_items
        of_user = negatives and shared_negatives != "batch"
        if of_user and split.training_items.distinct.max() >= num_items:
            user = split.sequences.user_ids[split.training_items.distinct.argmax()]
            raise DataError(
                f"user {user!r} trains on all {num_items} items, so no negative is left; "
                "use the cross-entropy loss, which needs none"
            )
        self.seconds = None  # int64 (events,)
        if times:
            if split.sequences.timestamps is None:
                raise DataError(
                    "a model with time_bias needs the time of every event and this data has none; "
                    "name the column with --columns user,item,rating,timestamp, or use "
                    "--no-time-bias"
                )
            self.seconds = np.floor(split.sequences.timestamps).astype(np.int64)
        self.split = split
        self.cooccurrence = cooccurrence
        self.max_length = max_length
        self.seed = seed
        self.negatives, self.shared_negatives = negatives, shared_negatives
        self.leave_self_out = leave_self_out
        self.kernel_loss = kernel_loss
        self.kernel_items = kernel_items
        # Two training events make one input and one target.
        self.training_users = np.flatnonzero(split.train_end - split.sequences.indptr[:-1] >= 2)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches that cover every training user once; the last may be smaller."""
        return -(-len(self.training_users) // batch_size)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """The training users of one epoch in random order, int64."""
        if len(self.training_users) == 0:
            raise DataError(
                "no user has 2 training events, so there is no item to predict from another; "
                "leave-one-out needs users with 4 events to train a sequential model, the time "
                "split users with 2 before its first boundary"
            )
        return _generator(self.seed, epoch, _ORDER).permutation(self.training_users)

    def training(self, users: np.ndarray, step: int) -> Batch:
        """The last n inputs and targets of these users' training events."""
        users = np.asarray(users, np.int64)
        sequences, n = self.split.sequences, self.max_length
        start, end = sequences.indptr[users], self.split.train_end[users]
        items = left_padded(sequences.items, start, end - 1, n)
        targets = np.where(items > 0, left_padded(sequences.items, start, end, n), 0)
        negatives = kernel_items = kernel_counts = None
        if self.negatives:
            rng = _generator(self.seed, step, _NEGATIVES)
            negatives = self._negatives(users, targets, rng)
        if self.kernel_loss:
            kernel_items = distinct(np.concatenate((items, targets), axis=None))
            kernel_items = kernel_items[kernel_items > 0]
            if len(kernel_items) > self.kernel_items:
                rng = _generator(self.seed, step, _KERNEL_ITEMS)
                kernel_items = np.sort(rng.choice(kernel_items, self.kernel_items, replace=False))
            kernel_counts = self.cooccurrence.submatrix(kernel_items)
        counts = self._counts(users, items)
        arrays = (users, items, targets, negatives, counts, kernel_items, kernel_counts)
        arrays += self._times(self.seconds, start, end - 1, n)
        tensors: Any = (None if a is None else torch.from_numpy(a) for a in arrays)
        return Batch(*tensors)

    def evaluation(self, rows: np.ndarray | slice, stage: str) -> Batch:
        """The last items before these targets of a stage, rows of `Split.targets`.

        As many as the longest history has, at most n.
        """
        users, at = (x[rows] for x in self.split.targets(stage))
        sequences = self.split.sequences
        start = sequences.indptr[users]
        width = self._width(start, at)
        items = left_padded(sequences.items, start, at, width)
        return self._inputs(users, items, self._times(self.seconds, start, at, width))

    def history(
        self,
        items: list[int],
        user: int = -1,
        times: Sequence[float] | None = None,
        at: float | None = None,
    ) -> Batch:
        """A batch of one from any history, oldest first; user -1 is a person not in the data.

        times: of the events, in seconds since 1970, and at, when it is asked; both are needed where
        the batches have times.
        """
        history = np.asarray(items, np.int64)
        num_items = self.split.sequences.num_items
        if history.ndim != 1 or len(history) == 0:
            raise DataError("the history is empty: give at least one item")
        if history.min() < 1 or history.max() > num_items:
            raise DataError(f"items={items}: expected item indices from 1 to {num_items}")
        if self.seconds is not None and (times is None or at is None or len(times) != len(history)):
            given = "none" if times is None else f"{len(times)}"
            raise DataError(
                f"the model reads times: expected one for each of the {len(history)} items of "
                f"the history and one of the request, got {given} and {at}"
            )
        bounds = np.array([0, len(history)])
        seconds = None if times is None else np.asarray(times, np.float64)
        return self.histories(np.array([user], np.int64), bounds, history, seconds, at)

    def histories(
        self,
        users: np.ndarray,
        indptr: np.ndarray,
        items: np.ndarray,
        times: np.ndarray | None = None,
        at: float | None = None,
    ) -> Batch:
        """A batch of the last items of histories, none of them empty: as many as the longest has.

        They are n at most.

        users: int64 (B,), -1 for a person not in the data. items: row b owns
        items[indptr[b]:indptr[b + 1]], oldest first. times: float64 of the events, and at, when it
        is asked; both in seconds since 1970, and needed where the batches have times.
        """
        start, end = indptr[:-1], indptr[1:]
        width = self._width(start, end)
        of_times = None, None
        if self.seconds is not None:
            assert times is not None and at is not None
            # A row's request follows its last event.
            seconds = np.insert(np.floor(times).astype(np.int64), end, math.floor(at))
            further = np.arange(len(users))
            of_times = self._times(seconds, start + further, end + further, width)
        return self._inputs(users, left_padded(items, start, end, width), of_times)

    def _width(self, start: np.ndarray, end: np.ndarray) -> int:
        """What holds the longest of these histories, at most n."""
        return min(self.max_length, int((end - start).max(initial=1)))

    def _times(
        self, seconds: np.ndarray | None, start: np.ndarray, end: np.ndarray, width: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those of the events start..end of every row, and of the event after each of them."""
        if seconds is None:
            return None, None
        after = left_padded(seconds, start + 1, end + 1, width)
        return left_padded(seconds, start, end, width), after

    def _inputs(
        self, users: np.ndarray, items: np.ndarray, times: tuple[np.ndarray | None, ...]
    ) -> Batch:
        counts = self._counts(users, items)
        # Users without training events have no vector.
        trained = self.split.training_items.distinct[users] > 0
        return Batch(
            users=torch.from_numpy(np.where(trained, users, -1)),
            items=torch.from_numpy(items),
            cooccurrence=None if counts is None else torch.from_numpy(counts),
            times=None if times[0] is None else torch.from_numpy(times[0]),
            request_times=None if times[1] is None else torch.from_numpy(times[1]),
        )

    def _counts(self, users: np.ndarray, items: np.ndarray) -> np.ndarray | None:
        if self.cooccurrence is None:
            return None
        counted = None
        if self.leave_self_out:
            counted = self.split.counted_items.contains(users[:, None], items)
        return self.cooccurrence.block(items, counted)

    def _negatives(
        self, users: np.ndarray, targets: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """As `Batch.negatives`; what the user has trained on is drawn again."""
        num_items = self.split.sequences.num_items
        if self.shared_negatives == "batch":
            return rng.integers(1, num_items, self.negatives, endpoint=True)
        row, position = np.nonzero(targets)
        per_user = self.shared_negatives == "sequence"
        owner = np.repeat(users if per_user else users[row], self.negatives)
        drawn = np.empty(len(owner), np.int64)
        pending = np.arange(len(owner))
        while len(pending):
            drawn[pending] = rng.integers(1, num_items, len(pending), endpoint=True)
            pending = pending[self.split.training_items.contains(owner[pending], drawn[pending])]
        drawn = drawn.reshape(-1, self.negatives)
        if per_user:
            return drawn
        negatives = np.zeros((*targets.shape, self.negatives), np.int64)
        negatives[row, position] = drawn
        return negatives


def sampled_candidates(
    split: Split, stage: str, count: int = NEGATIVES, seed: int = 0
) -> np.ndarray:
    """Uniform negatives for sampled ranking, int32 (targets of the stage, count).

    A row holds distinct items that are candidates beside its target (`Split.no_candidates`), and
    does not depend on the model. Where fewer are left it holds all of them, and then padding, 0.
    """
    rows, num_items = len(split.targets(stage).users), split.sequences.num_items
    taken = split.no_candidates(stage)
    free = num_items - taken.distinct
    rng = _generator(seed, STAGES.index(stage), _CANDIDATES)
    chosen = np.zeros((rows, count), np.int32)
    # Rejection would be slow where few items are left: there the rest is shuffled instead.
    few = free < 4 * count + num_items // 10
    for row in np.flatnonzero(few):
        rest = np.delete(np.arange(1, num_items + 1), taken.of(int(row)) - 1)
        drawn = rng.permutation(rest)[:count]
        chosen[row, : len(drawn)] = drawn
    missing = (chosen == 0) & ~few[:, None]
    while missing.any():
        for first in range(0, rows, ROWS_AT_ONCE):  # the draws are those of all rows at once
            part = slice(first, first + ROWS_AT_ONCE)
            _redraw(rng, chosen[part], missing[part], taken, first, num_items)
    return chosen


def _redraw(
    rng: np.random.Generator,
    chosen: np.ndarray,
    missing: np.ndarray,
    taken: UserItems,
    first: int,
    num_items: int,
) -> None:
    """Draw what is missing of some rows, from `first` on, and mark what is missing still."""
    row, column = np.nonzero(missing)
    chosen[row, column] = rng.integers(1, num_items, len(row), endpoint=True)
    missing[row, column] = taken.contains(row + first, chosen[row, column])
    redrawn = distinct(row)
    missing[redrawn] |= _repeats(chosen[redrawn])


def _repeats(rows: np.ndarray) -> np.ndarray:
    """True where a value stood further left in its row already."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(repeated)
    np.put_along_axis(out, order, repeated, axis=1)
    return out


def _generator(seed: int, step: int, purpose: int) -> np.random.Generator:
    key = np.array([seed % 2**64, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose]))
