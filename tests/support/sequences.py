"""Sequences and splits made by hand."""

from collections.abc import Sequence

import numpy as np

from rka_fast.data.sequences import Sequences


def sequences_of(
    histories: Sequence[Sequence[int]],
    num_items: int | None = None,
    *,
    user_ids: Sequence[str] | None = None,
    item_ids: Sequence[str] | None = None,
    timestamps: Sequence[float] | np.ndarray | None = None,
) -> Sequences:
    """Sequences of these item indices, one history a user.

    The catalogue ends at the largest index unless there are `num_items` or `item_ids`; ids are
    u0, u1, ... and i1, i2, ...
    """
    lengths = [len(history) for history in histories]
    items = np.concatenate([np.asarray(h, np.int32) for h in histories]).astype(np.int32)
    if item_ids is None:
        item_ids = [f"i{i}" for i in range(1, (num_items or int(items.max())) + 1)]
    return Sequences(
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        items,
        list(user_ids or [f"u{u}" for u in range(len(histories))]),
        list(item_ids),
        None if timestamps is None else np.asarray(timestamps, np.float64),
    )
