"""GRU4Rec: recommendations with recurrent networks (Hidasi et al., ICLR 2016).

One GRU over the embedded items and a separate output matrix. Ours, as in the later comparisons:
cross-entropy over all items and every position an example, where the source compares with the
other items of the batch and joins sessions in parallel; dropout on the embedded items (half the
rate) and on the states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.steps import StepPacking

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch


class GRU4Rec(Recommender):
    """h_t = GRU(e_{i_t}, h_{t-1}); the score of item i is its row of the output matrix times h_t.

    num_items: items count from 1. width: of the item embedding, the state and the output matrix.
    dropout: of the states; the embedded items have half of it.
    """

    title = "GRU4Rec"
    defaults: ClassVar = {"batch_size": 32}

    def __init__(self, num_items: int, *, width: int = 100, dropout: float = 0.5) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.gru = nn.GRU(width, width)
        self.output = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.input_dropout, self.dropout = nn.Dropout(dropout / 2), nn.Dropout(dropout)
        for table in (self.items, self.output):
            nn.init.xavier_normal_(table.weight[1:].data)

    def item_vectors(self) -> Tensor:
        return self.output.weight

    def encode(self, batch: Batch) -> Tensor:
        packing = StepPacking(batch.items)
        x = self.input_dropout(self.items(packing.pack(batch.items)))
        return packing.unpack(self.dropout(packing.run(self.gru, x)))
