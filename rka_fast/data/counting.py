"""Which form the co-occurrence counts of a split have: stored, or made when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from rka_fast.data.cooccurrence import PAIR_BYTES, CoOccurrence, most_pairs
from rka_fast.data.split import Split
from rka_fast.data.user_index import EVENT_BYTES, HEAD, UserIndex

Counts = CoOccurrence | UserIndex
"""Both have `block`, `submatrix` and `cosines`, with the same numbers."""

COUNTING = ("auto", "pairs", "index")
"""Stored pairs of items, an index of users, or the first where it surely takes less than STORED."""

STORED = 2**30
"""Bytes of stored pairs up to which they are what is chosen: they are found faster."""


def form(split: Split, counting: str = "auto") -> str:
    """ "pairs" or "index", by what was asked for and by a bound on the pairs."""
    if counting not in COUNTING:
        raise ValueError(f"counting={counting!r}: expected one of {', '.join(COUNTING)}")
    if counting != "auto":
        return counting
    # the bound needs who has what, squares of lengths do not and are more
    small = PAIR_BYTES * _squares(split) <= STORED or PAIR_BYTES * most_pairs(split) <= STORED
    return "pairs" if small else "index"


def counts_of(split: Split, counting: str = "auto") -> Counts:
    """The co-occurrence counts of a split."""
    return (CoOccurrence if form(split, counting) == "pairs" else UserIndex).from_split(split)


def index_bytes(split: Split) -> int:
    """What `UserIndex.from_split` holds."""
    of = split.sequences
    events = int(split.counted_items.distinct.sum())
    return EVENT_BYTES * (events + of.num_users + of.num_items) + 4 * min(HEAD, of.num_items) ** 2


def describe_counts(split: Split, counting: str = "auto") -> tuple[dict[str, Any], list[str]]:
    """What is left out of the counts and what they may take, told before they are made.

    JSON-able facts and lines for a person, none where nothing is left out and little is taken.
    """
    over = split.over_counted
    users, left_out = int((over > 0).sum()), int(over.sum())
    if not users and counting == "auto" and PAIR_BYTES * _squares(split) < STORED:
        return {}, []
    size = PAIR_BYTES * most_pairs(split)
    lines, facts = [], {}
    if users:
        facts["counted"] = {"most": split.max_counted, "users": users, "left_out": left_out}
        lines.append(
            f"co-occurrence: {users:,} user{'s have' if users > 1 else ' has'} more than "
            f"{split.max_counted:,} training events, of which the last {split.max_counted:,} count "
            f"and {left_out:,} do not (--max-counted)"
        )
    pairs = f"up to {size // PAIR_BYTES:,} pairs of items, {_gib(size)}"
    if form(split, counting) == "index":
        lines.append(
            f"co-occurrence: {pairs}, are not stored but counted for each batch from an index of "
            f"who has what, {_gib(index_bytes(split))}; the numbers are the same (--counting)"
        )
    elif users or size >= STORED:
        lines.append(f"co-occurrence: {pairs}; a lower --max-counted takes less")
    return facts, lines


def _squares(split: Split) -> float:
    """A bound on the pairs of items from the lengths of histories alone."""
    trained = split.train_end - split.sequences.indptr[:-1]
    return float(np.square(np.minimum(trained, split.max_counted), dtype=float).sum())


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
