"""Co-occurrence counts that are not stored: made, when asked for, from who has what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch

from rka_fast import native
from rka_fast.data.sequences import UserItems
from rka_fast.data.split import Split

HEAD = 4096
"""Items, those that most users have, whose counts with each other are stored: 64 MiB. Those of the
others are made from their users, so this bounds how many: of Zipf's law c_1 / 4096 at most."""

EVENT_BYTES = 8
"""Of an event that counts: its item in the user's row, its user in the item's row."""

AT_ONCE = 2**22
"""Events looked at together where whole rows of counts are asked for."""


@dataclass(frozen=True, eq=False)
class UserIndex:
    """The counts of `CoOccurrence`, from two compressed matrices of who has what.

    Their memory grows with the events, not with the pairs of items. They are the same numbers, of
    the same X^T X: whole, not negative, positive semi-definite; a user's own part is taken out
    exactly; and those of several sets of users add.

    user_begin: int64 (num_users + 1,), user u has user_items[user_begin[u]:user_begin[u + 1]].
    user_items: int32 (events,), sorted for each user.
    item_begin, item_users: the same by item, int64 (num_items + 2,) and int32 (events,).
    head: int32 (num_items + 1,), place of an item among those whose counts with each other are
        stored, or -1. head_counts: int32 (heads, heads).
    """

    user_begin: np.ndarray
    user_items: np.ndarray
    item_begin: np.ndarray
    item_users: np.ndarray
    head: np.ndarray
    head_counts: np.ndarray

    @classmethod
    def from_split(cls, split: Split, head: int = HEAD) -> UserIndex:
        """The index of a split's training events that count."""
        return cls.of(split.counted_items, split.sequences.num_items, head)

    @classmethod
    def of(cls, having: UserItems, num_items: int, head: int = HEAD) -> UserIndex:
        """The index of who has what of items 1..num_items."""
        user_begin, user_items = having.rows()
        shape = (len(user_begin) - 1, num_items + 1)
        had = scipy.sparse.csr_matrix(
            (np.ones(len(user_items), np.int8), user_items, user_begin), shape=shape
        )
        by_item = had.tocsc()
        del had
        item_begin, item_users = by_item.indptr.astype(np.int64), by_item.indices.astype(np.int32)
        del by_item
        support = np.diff(item_begin)
        most = np.argsort(-support, kind="stable")[: min(head, num_items)]
        most = most[support[most] > 0]
        place = np.full(num_items + 1, -1, np.int32)
        place[most] = np.arange(len(most))
        counts = _among(place, len(most), user_begin, user_items)
        return cls(user_begin, user_items, item_begin, item_users, place, counts)

    @property
    def support(self) -> np.ndarray:
        """Users that have every item, c_ii, int64 (num_items + 1,)."""
        return np.diff(self.item_begin)

    @cached_property
    def _scale(self) -> np.ndarray:
        return 1 / np.sqrt(np.maximum(self.support, 1).astype(np.float64))

    def cosines(self, items: np.ndarray) -> np.ndarray:
        """c_ij / sqrt(c_ii c_jj) of items (B,) with every item j, float64 (B, num_items + 1)."""
        counts = np.stack([self._row(int(item)) for item in items])
        return counts * self._scale[items][:, None] * self._scale

    def _row(self, item: int) -> np.ndarray:
        """c_ij with every item j, int64 (num_items + 1,)."""
        users = self.item_users[self.item_begin[item] : self.item_begin[item + 1]]
        row = np.zeros(len(self.head), np.int64)
        ends = np.cumsum(self.user_begin[users + 1] - self.user_begin[users])
        for part in np.split(users, np.flatnonzero(np.diff(ends // AT_ONCE)) + 1):
            have = _of_rows(self.user_begin, self.user_items, part)
            row += np.bincount(have, minlength=len(row))
        return row

    def block(self, items: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
        """Counts at every pair of positions of every row, as `CoOccurrence.block`."""
        items = np.asarray(items, np.int64)
        if native.why_not("_cpp"):
            return self._block(items, counted)
        arrays = (self.user_begin, self.user_items, self.item_begin, self.item_users)
        block = torch.ops.rka_fast_native.gather_indexed(
            *(torch.from_numpy(x) for x in (*arrays, self.head, self.head_counts, items)),
            None if counted is None else torch.from_numpy(counted.astype(bool)),
        )
        return block.numpy()

    def _block(self, items: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """`block` in scipy, where the native library was not built."""
        block = np.zeros((*items.shape, items.shape[1]), np.float32)
        for number, row in enumerate(items):
            users = _of_rows(self.item_begin, self.item_users, row)
            begin = np.append(0, np.cumsum(self.support[row]))
            had = scipy.sparse.csr_matrix(
                (np.ones(len(users), np.int32), users, begin),
                shape=(len(row), len(self.user_begin) - 1),
            )
            block[number] = (had @ had.T).toarray()
        if counted is not None:
            own = counted & (items > 0)
            block -= own[:, :, None] & own[:, None, :]
        return block

    def submatrix(self, items: np.ndarray) -> np.ndarray:
        """Plain counts between distinct items, float32 (S, S)."""
        return self.block(np.asarray(items)[None])[0]


def _of_rows(begin: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The columns of these rows of a compressed matrix, one row after the other."""
    length = begin[rows + 1] - begin[rows]
    ends = np.cumsum(length)
    return columns[np.arange(length.sum()) + np.repeat(begin[rows + 1] - ends, length)]


def _among(place: np.ndarray, heads: int, begin: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Counts between the items that have a place, int32 (heads, heads), by blocks of users."""
    counts = np.zeros((heads, heads), np.int32)
    users = len(begin) - 1
    bounds = np.searchsorted(begin, np.arange(0, len(items) + AT_ONCE, AT_ONCE))
    for first, last in zip(bounds, [*bounds[1:], users], strict=True):
        first, last = min(first, users), min(last, users)
        at = slice(begin[first], begin[last])
        of = place[items[at]]
        user = np.repeat(np.arange(last - first), np.diff(begin[first : last + 1]))
        kept = of >= 0
        had = scipy.sparse.csr_matrix(
            (np.ones(int(kept.sum()), np.int32), (user[kept], of[kept])), (last - first, heads)
        )
        together = (had.T @ had).tocoo()
        counts[together.row, together.col] += together.data
    return counts
