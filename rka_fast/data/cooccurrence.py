"""How many users have both of two items, counted on training events."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch

from rka_fast import native
from rka_fast.data.sequences import lookup
from rka_fast.data.split import Split


@dataclass(frozen=True, eq=False)
class CoOccurrence:
    """Symmetric counts, CSR int32 (num_items + 1, num_items + 1) with sorted indices.

    Off the diagonal: training users that have both items; on it: training users that have the
    item. Row and column 0, the padding, are empty. Repeated events of a user count once.
    """

    matrix: scipy.sparse.csr_matrix

    @classmethod
    def from_split(cls, split: Split) -> "CoOccurrence":
        """Count the training events of a split as X^T X of the 0/1 incidence matrix X."""
        sequences, which = split.sequences, split.training_events
        users, items = sequences.event_users[which], sequences.items[which]
        incidence = scipy.sparse.csr_matrix(
            (np.ones(len(items), np.int32), (users, items)),
            shape=(sequences.num_users, sequences.num_items + 1),
        )
        incidence.data[:] = 1  # the constructor summed repeated events
        counts = (incidence.T @ incidence).tocsr()
        counts.sort_indices()
        return cls(counts)

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
