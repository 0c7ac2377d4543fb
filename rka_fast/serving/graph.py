"""From histories to the best items in one graph, which a file can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from rka_fast.data.batches import Batch
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.models.transformer import TransformerRecommender

DENSE = 4096
"""Items up to which the counts are a matrix, of 64 MiB; beyond they are looked up in buckets."""


class Counts(nn.Module):
    """Co-occurrence counts by item indices, (B, n), 0 is padding, to float32 (B, n, n)."""

    @staticmethod
    def of(counts: CoOccurrence) -> Counts:
        """The faster form: a matrix takes half the time of buckets while it is small."""
        small = counts.matrix.shape[0] <= DENSE
        return MatrixCounts(counts) if small else BucketCounts(counts)


class MatrixCounts(Counts):
    """One matrix of all items."""

    table: Tensor  # float32 (items, items), flat

    def __init__(self, counts: CoOccurrence) -> None:
        super().__init__()
        self.width = counts.matrix.shape[1]
        table = counts.matrix.toarray().astype(np.float32).ravel()
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, items: Tensor) -> Tensor:
        return self.table[items[:, :, None] * self.width + items[:, None, :]]


class BucketCounts(Counts):
    """The stored counts of pairs i <= j by the key i * width + j, in buckets by its remainder.

    In a bucket, of few keys, a binary search finds the key: ONNX has no operator that searches.
    """

    begin: Tensor  # int64 (buckets + 1,), of each bucket in the keys
    keys: Tensor  # int64 (pairs + some to fill), rising in each bucket
    values: Tensor  # float32, like keys

    def __init__(self, counts: CoOccurrence) -> None:
        super().__init__()
        pairs = scipy.sparse.triu(counts.matrix, format="coo")
        self.width = counts.matrix.shape[1]
        keys = pairs.row.astype(np.int64) * self.width + pairs.col
        # The divisor that fills the fullest bucket least; a factor in common with the width hurts.
        divisors = [(len(keys) | 1) + 2 * i for i in range(8)]
        sizes = [np.bincount(keys % divisor, minlength=divisor) for divisor in divisors]
        size = min(sizes, key=np.max)
        self.divisor, self.steps = len(size), int(size.max()).bit_length()
        order = np.lexsort((keys, keys % self.divisor))
        fill = 2**self.steps  # a search may look past the last bucket
        filled = {"keys": np.full(len(keys) + fill, -1), "values": np.zeros(len(keys) + fill)}
        filled["keys"][: len(keys)] = keys[order]
        filled["values"][: len(keys)] = pairs.data[order]
        self.register_buffer("begin", torch.from_numpy(np.append(0, np.cumsum(size))))
        self.register_buffer("keys", torch.from_numpy(filled["keys"]))
        self.register_buffer("values", torch.from_numpy(filled["values"]).float())

    def forward(self, items: Tensor) -> Tensor:
        first, second = items[:, :, None], items[:, None, :]
        wanted = torch.minimum(first, second) * self.width + torch.maximum(first, second)
        bucket = wanted % self.divisor
        place, end = self.begin[bucket], self.begin[bucket + 1]
        for step in reversed(range(self.steps)):
            further = place + 2**step
            below = (further < end) & (self.keys[further] <= wanted)
            place = torch.where(below, further, place)
        return torch.where(self.keys[place] == wanted, self.values[place], 0.0)


class RankingGraph(nn.Module):
    """The encoder with score, hiding and top-k.

    counts: those of the training events, where the model reads them.
    """

    def __init__(self, model: TransformerRecommender, counts: CoOccurrence | None) -> None:
        super().__init__()
        self.model = model
        self.counts = None if counts is None else Counts.of(counts)

    def forward(self, history: Tensor, hidden: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, top), the best first, and item indices (B, top).

        history: int64 (B, n), item indices, oldest first, 0 in front of short ones.
        hidden: int64 (B, h), what is not to be recommended, 0 to fill.
        top: int64 (), how many.
        """
        counts = None if self.counts is None else self.counts(history)
        nobody = torch.full_like(history[:, 0], -1)
        scores = self.model.scores(Batch(nobody, history, cooccurrence=counts))
        scores = scores.scatter(1, hidden, -torch.inf)
        wanted: Any = top.item()
        torch._check(wanted >= 1)
        torch._check(wanted <= scores.shape[1])
        scores, items = scores.topk(wanted)
        return scores, items
