"""What SASRec and RKSA share: embeddings and blocks around one attention each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.groups import LengthGroups

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch


class FeedForward(nn.Module):
    """Position-wise ReLU network with its residual."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.dropout(self.inner(x)))
        return x + self.dropout(self.outer(hidden))


class Block(nn.Module):
    """query = LN(x), key = value = x; the residual adds LN(x) (SASRec's and the paper's order)."""

    def __init__(self, attention: nn.Module, width: int, dropout: float):
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, groups: LengthGroups, inputs: list[dict[str, Any]]) -> Tensor:
        query = self.attention_norm(x)
        parts = zip(groups.unpack(query), groups.unpack(x), groups.groups, inputs, strict=True)
        attended = [self.attention(q, y, group.padding, **more) for q, y, group, more in parts]
        return self.feed_forward(self.feed_forward_norm(query + groups.pack(attended)))


class TransformerRecommender(Recommender):
    """x_t = e_{i_t} sqrt(d) + p_t through blocks; the item embedding is the output embedding too.

    `attentions` are modules called as attention(query, x, padding, **inputs) on
    (b, l, width) with padding (b, l) True at positions without an item, for rows of similar length;
    inputs are what `attention_inputs` says.
    """

    has_attention = True

    def __init__(
        self,
        num_items: int,
        attentions: Sequence[nn.Module],
        max_length: int,
        width: int,
        dropout: float,
    ):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(a, width, dropout) for a in attentions)
        self.norm = nn.LayerNorm(width, eps=1e-8)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.items.weight[0].data)

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def attention_inputs(
        self, batch: Batch, groups: LengthGroups, items: Tensor
    ) -> list[dict[str, Any]]:
        """Keyword arguments of every block's attention for each group; items (P, width) vectors."""
        return [{} for _ in groups.groups]

    def encode(self, batch: Batch) -> Tensor:
        groups = LengthGroups(batch.items)
        items = self.items(batch.items[groups.present])
        # Left-padded: the newest item always has the last position.
        position = groups.position + self.positions.num_embeddings - batch.items.shape[1]
        x = self.dropout(items * math.sqrt(self.items.embedding_dim) + self.positions(position))
        inputs = self.attention_inputs(batch, groups, items)
        for block in self.blocks:
            x = block(x, groups, inputs)
        return groups.unpack_all(self.norm(x))
