"""What SASRec and RKSA share: embeddings and blocks around one attention each."""

import math

import torch
from torch import Tensor, nn

from rka_fast.models.base import Recommender


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

    def forward(self, x: Tensor, padding: Tensor, **relations) -> Tensor:
        query = self.attention_norm(x)
        x = query + self.attention(query, x, padding, **relations)
        x = self.feed_forward(self.feed_forward_norm(x))
        return x.masked_fill(padding.unsqueeze(-1), 0.0)


class TransformerRecommender(Recommender):
    """x_t = e_{i_t} sqrt(d) + p_t through blocks; the item embedding is the output embedding too.

    `attentions` are modules called as attention(query, x, padding, **relations) on
    (B, n, width) with padding (B, n) True at positions without an item.
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

    def relations(self, batch) -> dict:
        """Keyword arguments for every block's attention."""
        return {}

    def encode(self, batch) -> Tensor:
        items = batch.items
        padding = items == 0
        x = self.items(items) * math.sqrt(self.items.embedding_dim)
        # Left-padded: the newest item always has the last position.
        x = self.dropout(x + self.positions.weight[-items.shape[1] :])
        x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        relations = self.relations(batch)
        for block in self.blocks:
            x = block(x, padding, **relations)
        return self.norm(x)
