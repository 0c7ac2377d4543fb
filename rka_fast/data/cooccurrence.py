"""How many users have both of two items, counted on training events."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch

from rka_fast import native
from rka_fast.data.growing import Growing
from rka_fast.data.split import Split
from rka_fast.data.user_index import HEAD, UserIndex

PAIR_BYTES = 8
"""Of a stored pair: its column and its count."""

AT_ONCE = 2**20
"""Pairs that are made together at most, 8 MiB, beside what rows of many pairs take."""


def incidence(split: Split) -> scipy.sparse.csr_matrix:
    """Who trains on what that counts: int32 (num_users, num_items + 1) of 0 and 1."""
    begin, items = split.counted_items.rows()
    shape = (split.sequences.num_users, split.sequences.num_items + 1)
    return scipy.sparse.csr_matrix((np.ones(len(items), np.int32), items, begin), shape=shape)


def _moved(
    matrix: scipy.sparse.csr_matrix, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """The matrix with other row and column numbers; row -1 and column 0 are left out."""
    entries = matrix.tocoo()
    rows, columns = row[entries.row], column[entries.col]
    kept = (rows >= 0) & (columns > 0)
    return scipy.sparse.csr_matrix((entries.data[kept], (rows[kept], columns[kept])), shape=shape)


def cuts(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last of neighbours whose sizes come to AT_ONCE at most, or of one by itself."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + AT_ONCE, side="right")))
        yield first, last
        first = last


def products(
    by_item: scipy.sparse.csr_matrix, had: scipy.sparse.csr_matrix
) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
    """The product of sparse matrices, some rows at a time, with the number of the first."""
    for first, last in cuts(bound(by_item, had)):
        yield first, by_item[first:last] @ had


def bound(by_item: scipy.sparse.csr_matrix, had: scipy.sparse.csr_matrix) -> np.ndarray:
    """A bound on the entries of every row of a product of sparse matrices, int64."""
    return np.minimum(by_item @ np.diff(had.indptr).astype(np.int64), had.shape[1])


@dataclass(frozen=True, eq=False)
class CoOccurrence:
    """Symmetric counts (num_items + 1, num_items + 1) in compressed rows, 8 bytes a stored count.

    Off the diagonal: training users that have both items; on it: training users that have the
    item. Row and column 0, the padding, are empty. Repeated events of a user count once, and of
    each user only the last `Split.max_counted` training events do: this is still X^T X, of another
    X, so it stays positive semi-definite, and a user's own part can be taken out exactly.

    They are made some rows at a time, so that there never are two of them. Rows may begin beyond
    2^31; items and users are fewer.

    indptr: int64 (num_items + 2,), row i is indptr[i]:indptr[i + 1] of the others.
    indices, data: int32 (pairs,), columns, sorted in every row, and counts.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[scipy.sparse.csr_matrix]) -> CoOccurrence:
        """The counts of which parts have some rows, one part after the other."""
        indptr, indices, data = Growing(np.int64), Growing(np.int32), Growing(np.int32)
        indptr.add(np.zeros(1))
        for part in parts:
            part.sort_indices()
            indptr.add(len(indices.array) + part.indptr[1:].astype(np.int64))
            indices.add(part.indices)
            data.add(part.data)
        return cls(indptr.array, indices.array, data.array)

    @classmethod
    def from_split(cls, split: Split) -> CoOccurrence:
        """Count the training events of a split as X^T X of the 0/1 incidence matrix X."""
        had = incidence(split)
        return cls.of(rows for _, rows in products(had.T.tocsr(), had))

    @classmethod
    def from_half(cls, half: scipy.sparse.csr_matrix) -> CoOccurrence:
        """The counts of which a matrix has those of the pairs i <= j."""
        below = half.T.tocsr()

        def parts() -> Iterator[scipy.sparse.csr_matrix]:
            for first, last in cuts(np.diff(half.indptr) + np.diff(below.indptr)):
                lower = scipy.sparse.tril(below[first:last], first - 1, format="csr")
                yield half[first:last] + lower

        return cls.of(parts())

    def __add__(self, other: CoOccurrence) -> CoOccurrence:
        """The counts of two groups of users, none of whom is in both, of the same items."""
        sizes = np.diff(self.indptr) + np.diff(other.indptr)
        return CoOccurrence.of(
            self.rows(first, last) + other.rows(first, last) for first, last in cuts(sizes)
        )

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
        source = np.zeros(shape[1], np.int64)  # the old row of every new one, 0 of new items
        source[item] = np.arange(len(item))
        source[0] = 0

        def parts() -> Iterator[scipy.sparse.csr_matrix]:
            less, more = had.T.tocsr(), have.T.tocsr()
            sizes = np.diff(self.indptr)[source] + bound(less, had) + bound(more, have)
            for first, last in cuts(sizes):
                part = self._chosen(source[first:last], item, shape[1])
                part = (part - less[first:last] @ had + more[first:last] @ have).tocsr()
                part.eliminate_zeros()
                yield part

        return CoOccurrence.of(parts())

    def rows(self, first: int, last: int) -> scipy.sparse.csr_matrix:
        """Rows first..last - 1, which share the memory of these counts up to 2^31 - 1 pairs."""
        begin, end = self.indptr[first], self.indptr[last]
        starts = self.indptr[first : last + 1] - begin
        if end - begin < 2**31:
            starts = starts.astype(np.int32)
        shape = (last - first, len(self.indptr) - 1)
        return scipy.sparse.csr_matrix(
            (self.data[begin:end], self.indices[begin:end], starts), shape=shape
        )

    @property
    def matrix(self) -> scipy.sparse.csr_matrix:
        """All `rows`."""
        return self.rows(0, len(self.indptr) - 1)

    def _blocks(self) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
        """Some `rows` after the other, each with the number of the first."""
        for first, last in cuts(np.diff(self.indptr)):
            yield first, self.rows(first, last)

    def _chosen(
        self, rows: np.ndarray, column: np.ndarray | None = None, width: int | None = None
    ) -> scipy.sparse.csr_matrix:
        """Any rows, with other column numbers if given; what comes to column 0 is 0."""
        length = self.indptr[rows + 1] - self.indptr[rows]
        ends = np.append(0, np.cumsum(length))
        place = np.arange(ends[-1]) + np.repeat(self.indptr[rows] - ends[:-1], length)
        indices, data = self.indices[place], self.data[place]
        if column is not None:
            indices = column[indices]
            data[indices == 0] = 0
        shape = (len(rows), width or len(self.indptr) - 1)
        return scipy.sparse.csr_matrix((data, indices, ends), shape=shape)

    def content(self) -> bytes:
        """A file of the counts, which `from_content` reads; half of them, as they are symmetric."""
        upper = (scipy.sparse.triu(part, first) for first, part in self._blocks())
        half = CoOccurrence.of(map(scipy.sparse.csr_matrix, upper))
        file = io.BytesIO()
        scipy.sparse.save_npz(file, half.matrix)
        return file.getvalue()

    @classmethod
    def from_content(cls, content: bytes) -> CoOccurrence:
        """The counts that a file holds, as `content` made it."""
        return cls.from_half(scipy.sparse.load_npz(io.BytesIO(content)))

    @cached_property
    def support(self) -> np.ndarray:
        """Users that have every item, c_ii, int32 (num_items + 1,)."""
        return np.concatenate([part.diagonal(first) for first, part in self._blocks()])

    @cached_property
    def _scale(self) -> np.ndarray:
        """1 / sqrt(c_ii), float64 (num_items + 1,); 1 where nobody has the item."""
        return 1 / np.sqrt(np.maximum(self.support, 1).astype(np.float64))

    def cosines(self, items: np.ndarray) -> np.ndarray:
        """c_ij / sqrt(c_ii c_jj) of items (B,) with every item j, float64 (B, num_items + 1)."""
        return self._chosen(items).toarray() * self._scale[items][:, None] * self._scale

    def block(self, items: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
        """Counts at every pair of positions of every row, float32 (B, n, n); 0 at padding.

        items: int (B, n), 0 is padding.
        counted: bool (B, n), positions of a user that is itself in the counts and has the item
            there. One is taken from every pair of them, which leaves the other users' counts.
            None gives the plain counts.
        """
        if native.why_not("_cpp"):
            return self._block(items, counted)
        if table_bytes(len(self.indptr) - 2):
            return self._table.block(items, counted)
        return gather(self.indptr, self.indices, self.data, items, counted)

    @cached_property
    def _table(self) -> UserIndex:
        """An index with all counts stored: of few items they are found faster than in rows."""
        size, nobody = len(self.indptr) - 1, np.zeros(0, np.int32)
        begin, place = np.zeros(size + 1, np.int64), np.arange(size, dtype=np.int32)
        counts = np.zeros((size, size), np.int32)
        counts[1:] = self.rows(1, size).toarray()  # without the padding's
        return UserIndex(begin[:1], nobody, begin, nobody, place, counts)

    def _block(self, items: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """`block` in numpy, where the native library was not built."""
        batch, length = items.shape
        first, second = np.tril_indices(length)
        valid = items > 0
        row, pair = np.nonzero(valid[:, first] & valid[:, second])
        first, second = first[pair], second[pair]
        values = self._counts(items[row, first], items[row, second])
        if counted is not None:
            values -= counted[row, first] & counted[row, second]
        block = np.zeros((batch, length, length), np.float32)
        block[row, first, second] = values
        block[row, second, first] = values
        return block

    def _counts(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """c_ij of pairs, float32: a binary search in every row at once."""
        low, end = self.indptr[rows], self.indptr[rows + 1]
        high = end
        while (low < high).any():
            middle = (low + high) // 2
            below = (low < high) & (np.take(self.indices, middle, mode="clip") < columns)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        there = low < end
        there[there] = self.indices[low[there]] == columns[there]
        values = np.zeros(len(rows), np.float32)
        values[there] = self.data[low[there]]
        return values

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
    rows = had.T.tocsr()[chosen]
    stored = np.concatenate(
        [(rows[first:last] @ had).getnnz(axis=1) for first, last in cuts(most[chosen])]
    )
    return int(total * (stored / most[chosen]).mean())


def table_bytes(num_items: int) -> int:
    """Of the counts of all pairs, which are looked up in a table where items are few; else 0."""
    return 4 * (num_items + 1) ** 2 if num_items < HEAD else 0


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
