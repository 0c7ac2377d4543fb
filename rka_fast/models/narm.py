"""NARM: neural attentive session-based recommendation (Li et al., CIKM 2017).

The encoders and the bilinear decoder are the paper's. Ours: every position is the last one of its
own prefix, with its own attention over the states up to it, so that one pass trains on all
prefixes; dropout on the embedded items (half the rate) and on the concatenated states; training
ends when validation says so, for after the paper's 30 epochs it has not converged on CiteULike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.steps import StepPacking

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch


class NARM(Recommender):
    """Global and local encoder: the last state, and all states weighed by it.

    h_j = GRU(e_{i_j}, h_{j-1}); c_t = [h_t; sum_{j <= t} alpha_tj h_j] with
    alpha_tj = v' sigmoid(A1 h_j + A2 h_t), not normalised; the score of item i is e_i' B c_t.

    num_items: items count from 1. width: of the embedding and of the state. dropout: of c_t; the
    embedded items have half of it.
    """

    title = "NARM"
    defaults: ClassVar = {"batch_size": 32}

    def __init__(self, num_items: int, *, width: int = 100, dropout: float = 0.5) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.gru = nn.GRU(width, width)
        self.attention_past = nn.Linear(width, width, bias=False)
        self.attention_now = nn.Linear(width, width, bias=False)
        self.attention_weight = nn.Linear(width, 1, bias=False)
        self.decoder = nn.Linear(2 * width, width, bias=False)
        self.input_dropout, self.dropout = nn.Dropout(dropout / 2), nn.Dropout(dropout)
        nn.init.xavier_normal_(self.items.weight[1:].data)

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def encode(self, batch: Batch) -> Tensor:
        """B c_t: the decoder is on the state's side, where it is cheaper than on all items."""
        packing = StepPacking(batch.items)
        states = packing.run(self.gru, self.input_dropout(self.items(packing.pack(batch.items))))
        local = packing.pool(
            self.attention, self.attention_now(states), self.attention_past(states), states
        )
        return packing.unpack(self.decoder(self.dropout(torch.cat((states, local), -1))))

    def attention(self, now: Tensor, past: Tensor) -> Tensor:
        """alpha (b, t) of A2 h_t (b, width) and A1 h_j (b, t, width)."""
        return self.attention_weight(torch.sigmoid(past + now.unsqueeze(1))).squeeze(-1)
