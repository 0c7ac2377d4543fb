"""Vectors of items that are made of their ids and their features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class ItemTable(nn.Embedding):
    """Item i has the vector e_i + W f_i; without training events W f_i alone.

    What is learnt of an item that was never trained on would be that it never comes next.

    features: float32 (num_items, F), f of items 1, 2, ...; width: of the vectors.
    """

    features: Tensor  # (num_items + 1, F)
    trained: Tensor  # (num_items + 1, 1), 1 where an item has training events

    def __init__(self, features: np.ndarray, width: int) -> None:
        super().__init__(len(features) + 1, width, padding_idx=0)
        self.map = nn.Linear(features.shape[1], width, bias=False)
        nn.init.normal_(self.map.weight, std=0.02)
        # They are the data's, which has them in every run folder.
        padded = np.concatenate((np.zeros_like(features[:1]), features))
        self.register_buffer("features", torch.from_numpy(padded), persistent=False)
        self.register_buffer("trained", torch.ones(len(padded), 1), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        own = super().forward(items) * self.trained[items]
        return own + self.map(self.features[items])

    def vectors(self) -> Tensor:
        """Of all items, (num_items + 1, width)."""
        return self.weight * self.trained + self.map(self.features)


def item_table(num_items: int, width: int, features: np.ndarray | None) -> nn.Embedding:
    """A table of ids, and of features where there are any."""
    if features is None:
        return nn.Embedding(num_items + 1, width, padding_idx=0)
    return ItemTable(features, width)


def vectors_of(table: nn.Embedding) -> Tensor:
    """Vectors of all items, (num_items + 1, width)."""
    return table.vectors() if isinstance(table, ItemTable) else table.weight


@torch.no_grad()
def folded(table: nn.Embedding) -> nn.Embedding:
    """A plain table of the same vectors."""
    plain = nn.Embedding.from_pretrained(vectors_of(table).detach().clone(), padding_idx=0)
    return plain.requires_grad_(table.weight.requires_grad).train(table.training)
