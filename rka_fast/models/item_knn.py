"""Item-KNN: what users had who had the last item (the baseline of Hidasi et al., ICLR 2016)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rka_fast.models.base import Recommender, without_padding

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch
    from rka_fast.data.split import Split


class ItemKNN(Recommender):
    """The score of item j after a history that ends with item i is their similarity.

    sim(i, j) = cooc(i, j) / sqrt((supp_i + 20) (supp_j + 20)) over the training events: supp_i
    counts the events of i, cooc(i, j) those of i in a sequence that has j. Every item keeps its
    100 most similar ones (the lower index first where they tie), everything else scores 0, which
    the ranks count as a miss.

    num_items: items count from 1. neighbours: kept per item. regularisation: the 20.
    """

    title = "Item-KNN"
    trains = has_vectors = False
    losses = ()
    neighbours: Tensor  # (num_items + 1, kept) int64
    similarities: Tensor  # (num_items + 1, kept)

    def __init__(
        self, num_items: int, *, neighbours: int = 100, regularisation: float = 20.0
    ) -> None:
        super().__init__()
        self.regularisation = regularisation
        kept = min(neighbours, num_items)
        # An unused place is padding, item 0, with similarity 0.
        self.register_buffer("neighbours", torch.zeros(num_items + 1, kept, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(num_items + 1, kept))

    def fit(self, split: Split) -> None:
        scale = 1 / np.sqrt(split.train_counts() + self.regularisation)
        kept = self.neighbours.shape[1]
        for item, others, counts in _cooccurrence(split):
            similarity = counts * scale[item] * scale[others]
            best = np.argsort(-similarity, kind="stable")[:kept]
            self.neighbours[item, : len(best)] = torch.from_numpy(others[best].astype(np.int64))
            self.similarities[item, : len(best)] = torch.from_numpy(similarity[best])

    def scores(self, batch: Batch) -> Tensor:
        last = batch.items[:, -1]
        similarities = self.similarities[last]
        scores = similarities.new_zeros(len(last), len(self.neighbours))
        # Unused places all write 0 to the padding column.
        scores.scatter_(1, self.neighbours[last], similarities)
        return without_padding(scores)


def _cooccurrence(split: Split) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """cooc of the events that count: of every item the others, ascending, and their counts.

    It is made some rows at a time, of which none is kept.
    """
    import scipy.sparse  # here, since importing rka_fast for its operator should not load it

    from rka_fast.data.cooccurrence import products

    sequences, which = split.sequences, split.counted_events
    where = sequences.event_users[which], sequences.items[which]
    events = scipy.sparse.csr_matrix(
        (np.ones(len(where[0])), where), shape=(sequences.num_users, sequences.num_items + 1)
    )
    by_item, had = events.T.tocsr(), events.sign()  # pyright: ignore[reportAttributeAccessIssue]
    for first, rows in products(by_item, had):
        rows.setdiag(0, first)
        rows.eliminate_zeros()
        rows.sort_indices()
        for row, (begin, end) in enumerate(itertools.pairwise(rows.indptr)):
            if end > begin:
                yield first + row, rows.indices[begin:end], rows.data[begin:end]
