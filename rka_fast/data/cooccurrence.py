"""How many users have both of two items, counted on training events."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch

from rka_fast import native
from rka_fast.data.sequences import lookup
from rka_fast.data.split import Split

PAIR_BYTES = 8
"""Of a stored pair: its column and its count."""


def incidence(split: Split) -> scipy.sparse.csr_matrix:
    """Who trains on what that counts: int32 (num_users, num_items + 1) of 0 and 1."""
    sequences, which = split.sequences, split.counted_events
    users, items = sequences.event_users[which], sequences.items[which]
    had = scipy.sparse.csr_matrix(
        (np.ones(len(items), np.int32), (users, items)),
        shape=(sequences.num_users, sequences.num_items + 1),
    )
    had.data[:] = 1  # the constructor summed repeated events
    return had


def _moved(
    matrix: scipy.sparse.csr_matrix, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """The matrix with other row and column numbers; row -1 and column 0 are left out."""
    entries = matrix.tocoo()
    rows, columns = row[entries.row], column[entries.col]
    kept = (rows >= 0) & (columns > 0)
    return scipy.sparse.csr_matrix((entries.data[kept], (rows[kept], columns[kept])), shape=shape)


@dataclass(frozen=True, eq=False)
class CoOccurrence:
    """Symmetric counts, CSR int32 (num_items + 1, num_items + 1) with sorted indices.

    Off the diagonal: training users that have both items; on it: training users that have the
    item. Row and column 0, the padding, are empty. Repeated events of a user count once, and of
    each user only the last `Split.max_counted` training events do: this is still X^T X, of another
    X, so it stays positive semi-definite, and a user's own part can be taken out exactly.
    """

    matrix: scipy.sparse.csr_matrix

    @classmethod
    def from_split(cls, split: Split) -> CoOccurrence:
        """Count the training events of a split as X^T X of the 0/1 incidence matrix X."""
        had = incidence(split)
        counts = had.T.tocsr() @ had
        counts.sort_indices()
        return cls(counts)

    def __add__(self, other: CoOccurrence) -> CoOccurrence:
        """The counts of two groups of users, none of whom is in both."""
        total: Any = self.matrix + other.matrix
        total.sort_indices()
        return CoOccurrence(total)

    def updated(self, before: Split, after: Split) -> CoOccurrence:
        """The counts of `after`, from these, which are those of `before`.

        Only the users whose training items differ are counted: what they had is taken away, and
        what they have is added. Users and items are the same by their ids.
        """
        old, new = before.sequences, after.sequences
        shape = (new.num_users, new.num_items + 1)
        user = np.array([new.indices("user").get(name, -1) for name in old.user_ids], np.int64)
        item = np.array([0, *(new.indices("item").get(name, 0) for name in old.item_ids)])
        had, have = _moved(incidence(before), user, item, shape), incidence(after)
        differs: Any = had != have  # a sparse matrix, whatever scipy's types say
        changed = np.flatnonzero(differs.getnnz(axis=1))
        had, have = had[changed], have[changed]
        counts = _moved(self.matrix, item, item, (shape[1], shape[1]))
        counts = (counts - had.T @ had + have.T @ have).tocsr()
        counts.eliminate_zeros()
        counts.sort_indices()
        return CoOccurrence(counts)

    def content(self) -> bytes:
        """A file of the counts, which `from_content` reads; half of them, as they are symmetric."""
        file = io.BytesIO()
        scipy.sparse.save_npz(file, scipy.sparse.triu(self.matrix, format="csr"))
        return file.getvalue()

    @classmethod
    def from_content(cls, content: bytes) -> CoOccurrence:
        """The counts that a file holds, as `content` made it."""
        half = scipy.sparse.load_npz(io.BytesIO(content))
        counts = (half + scipy.sparse.triu(half, 1).T).tocsr()
        counts.sort_indices()
        return cls(counts)

    @cached_property
    def _scale(self) -> np.ndarray:
        """1 / sqrt(c_ii), float64 (num_items + 1,); 1 where nobody has the item."""
        return 1 / np.sqrt(np.maximum(self.matrix.diagonal(), 1).astype(np.float64))

    def cosines(self, items: np.ndarray) -> np.ndarray:
        """c_ij / sqrt(c_ii c_jj) of items (B,) with every item j, float64 (B, num_items + 1)."""
        return self.matrix[items].toarray() * self._scale[items][:, None] * self._scale

    @cached_property
    def _keys(self) -> np.ndarray:
        """row * width + column of every stored count: sorted, so one binary search finds many."""
        rows = np.repeat(np.arange(self.matrix.shape[0]), np.diff(self.matrix.indptr))
        return rows * self.matrix.shape[1] + self.matrix.indices

    def block(self, items: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
        """Counts at every pair of positions of every row, float32 (B, n, n); 0 at padding.

        items: int (B, n), 0 is padding.
        counted: bool (B, n), positions of a user that is itself in the counts and has the item
            there. One is taken from every pair of them, which leaves the other users' counts.
            None gives the plain counts.
        """
        if native.why_not("_cpp"):
            return self._block(items, counted)
        return gather(*self._compressed, items, counted)

    @cached_property
    def _compressed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        matrix = self.matrix
        return (
            matrix.indptr.astype(np.int64, copy=False),
            matrix.indices.astype(np.int32, copy=False),
            matrix.data.astype(np.int32, copy=False),
        )

    def _block(self, items: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """`block` in numpy, where the native library was not built."""
        batch, length = items.shape
        first, second = np.tril_indices(length)
        valid = items > 0
        row, pair = np.nonzero(valid[:, first] & valid[:, second])
        first, second = first[pair], second[pair]
        keys = items[row, first].astype(np.int64) * self.matrix.shape[1] + items[row, second]
        order = np.argsort(keys)  # neighbours in the search are then neighbours in memory
        position, found = lookup(self._keys, keys[order])
        values = np.empty(len(keys), np.float32)
        values[order] = np.where(found, self.matrix.data[position], 0)
        if counted is not None:
            values -= counted[row, first] & counted[row, second]
        block = np.zeros((batch, length, length), np.float32)
        block[row, first, second] = values
        block[row, second, first] = values
        return block

    def submatrix(self, items: np.ndarray) -> np.ndarray:
        """Plain counts between distinct items, float32 (S, S)."""
        return self.block(np.asarray(items)[None])[0]


def most_pairs(split: Split) -> int:
    """A bound on the pairs of items that `CoOccurrence.from_split` stores."""
    return int(_most_of_items(split).sum())


def _most_of_items(split: Split) -> np.ndarray:
    """A bound on the pairs of every item, float64 (num_items + 1,)."""
    having, num_items = split.counted_items, split.sequences.num_items
    users, items = having.pairs(0, split.sequences.num_users)
    of_item = np.bincount(items, having.distinct[users], minlength=num_items + 1)
    return np.minimum(of_item, num_items)


def likely_pairs(split: Split, sample: int = 500) -> int:
    """About how many pairs `CoOccurrence.from_split` stores, from the rows of some items.

    Items are drawn in proportion to their bound, so that the mean share of the bound that they
    store is, on average, that of all (Hansen and Hurwitz, 1943).
    """
    most = _most_of_items(split)
    total = most.sum()
    if not total:
        return 0
    chosen = np.random.default_rng(0).choice(len(most), sample, p=most / total)
    had = incidence(split)
    stored = (had.T.tocsr()[chosen] @ had).getnnz(axis=1)
    return int(total * (stored / most[chosen]).mean())


def gather(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    items: np.ndarray,
    counted: np.ndarray | None,
) -> np.ndarray:
    """Counts at every pair of positions, float32 (B, n, n), from a sparse symmetric matrix.

    indptr (int64), indices and data (int32): compressed rows with sorted columns, row and column 0
    empty. items: int (B, n), 0 is padding. counted: bool (B, n), positions of a user that is itself
    in the counts; one is taken from every pair of them. Needs the native library.
    """
    block = torch.ops.rka_fast_native.gather(
        *(torch.from_numpy(x) for x in (indptr, indices, data, items.astype(np.int64))),
        None if counted is None else torch.from_numpy(counted.astype(bool)),
    )
    return block.numpy()
