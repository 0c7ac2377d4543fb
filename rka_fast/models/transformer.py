"""What SASRec and RKSA share: embeddings and blocks around one attention each."""

import math

import torch
from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.packing import Packing


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

    def forward(self, x: Tensor, packing: Packing, relations: list[dict]) -> Tensor:
        query = self.attention_norm(x)
        inputs = zip(
            packing.unpack(query), packing.unpack(x), packing.groups, relations, strict=True
        )
        attended = [self.attention(q, y, group.padding, **more) for q, y, group, more in inputs]
        return self.feed_forward(self.feed_forward_norm(query + packing.pack(attended)))


class TransformerRecommender(Recommender):
    """x_t = e_{i_t} sqrt(d) + p_t through blocks; the item embedding is the output embedding too.

    `attentions` are modules called as attention(query, x, padding, **relations) on
    (b, l, width) with padding (b, l) True at positions without an item, for rows of similar length.
    """

    def __init__(
        self,
        num_items: int,
        attentions: list[nn.Module],
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

    def relations(self, batch, packing: Packing, items: Tensor) -> list[dict]:
        """Keyword arguments of every block's attention for each group; items (P, width) vectors."""
        return [{} for _ in packing.groups]

    def encode(self, batch) -> Tensor:
        packing = Packing(batch.items)
        items = self.items(batch.items[packing.there])
        # Left-padded: the newest item always has the last position.
        position = packing.position + self.positions.num_embeddings - batch.items.shape[1]
        x = self.dropout(items * math.sqrt(self.items.embedding_dim) + self.positions(position))
        relations = self.relations(batch, packing, items)
        for block in self.blocks:
            x = block(x, packing, relations)
        return packing.unpack_all(self.norm(x))
