"""What came after a run's data: its events as targets, each after all that its user had before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rka_fast.data.batches import Batcher
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import NOBODY, Split, Targets
from rka_fast.errors import DataError
from rka_fast.recommending.histories import item_indices, seconds


def later_split(
    split: Split,
    lists: Mapping[str, Sequence[Any]],
    times: Mapping[str, Sequence[Any]] | None,
) -> tuple[Split, int]:
    """A split that trains on what `split` trains on and tests on further events.

    lists, times: item ids of the events by user, oldest first, and when they happened. A user's
    history is all that the data of the run has and what came before in the lists. Returns it with
    the number of events that cannot be asked for: those with items that are not in the catalogue,
    and a new user's first. Raises DataError where none is left, or where times are missing.
    """
    old = split.sequences
    timed = old.timestamps is not None
    if timed and times is None:
        raise DataError("the run's data has times: the events need a column timestamp")
    indptr, items, stamps, users, at, left_out = [0], [], [], [], [], 0
    train_end = []
    new = [name for name in lists if name not in old.indices("user")]
    for number, name in enumerate([*old.user_ids, *new]):
        history = old.sequence(number) if number < old.num_users else np.zeros(0, np.int32)
        start, before = indptr[-1], len(history)
        own = split.train_end[number] - old.indptr[number] if number < old.num_users else 0
        train_end.append(start + own)
        items.append(history)
        if timed and before:
            stamps.append(old.timestamps[old.indptr[number] : old.indptr[number + 1]])
        found = item_indices(old, lists.get(name, ()), missing=True)
        kept = found[found > 0]
        left_out += len(found) - len(kept)
        items.append(kept.astype(np.int32))
        if timed and len(kept):
            when = np.array([seconds(time) for time in times[name]], np.float64)
            stamps.append(when[found > 0])
        first = 0 if before else min(1, len(kept))
        left_out += first
        users += [number] * (len(kept) - first)
        at += range(start + before + first, start + before + len(kept))
        indptr.append(start + before + len(kept))
    if not users:
        raise DataError("no event is left to evaluate on: none has a known item after a history")
    sequences = Sequences(
        np.array(indptr, np.int64),
        np.concatenate(items),
        [*old.user_ids, *new],
        old.item_ids,
        np.concatenate(stamps) if timed else None,
    )
    targets = Targets(np.array(users, np.int64), np.array(at, np.int64))
    later = Split(
        sequences,
        np.array(train_end, np.int64),
        NOBODY,
        targets,
        future_hidden=True,
        seen=split.seen,
        max_counted=split.max_counted,
    )
    return later, left_out


def later_batcher(batcher: Batcher, split: Split) -> Batcher:
    """The batcher of the run on another split with the same training events and catalogue."""
    return Batcher(
        split,
        batcher.cooccurrence,
        batcher.max_length,
        batcher.seed,
        leave_self_out=batcher.leave_self_out,
        times=batcher.seconds is not None,
    )
