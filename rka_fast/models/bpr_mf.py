"""BPR-MF: matrix factorisation from pairwise comparisons (Rendle et al., UAI 2009).

As the baseline of Hidasi et al. (ICLR 2016) runs it on sequences: no regularisation, and in
evaluation the user vector is the mean of the item vectors of the history, so that a user needs
no vector of its own. Ours: the comparisons of a step are taken together instead of one by one
(at this rate the same within noise), and the negative is uniform over the items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rka_fast.models.base import Recommender

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch
    from rka_fast.data.split import Split


class BPRMF(Recommender):
    """The score of item i is its vector times the mean vector of the history's items.

    num_items, num_users: of the catalogue; items count from 1. width: number of factors. epochs,
    learning_rate: of stochastic gradient ascent on log sigmoid(u'(p - n)). batch_size: events per
    step. seed: of the initial vectors, U(-.05, .05), and of the comparisons.
    """

    title = "BPR-MF"
    trains = False
    losses = ()
    users: Tensor  # (num_users, width)
    items: Tensor  # (num_items + 1, width), row 0 is padding

    def __init__(
        self,
        num_items: int,
        num_users: int,
        *,
        width: int = 100,
        epochs: int = 10,
        learning_rate: float = 0.01,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.epochs, self.learning_rate, self.batch_size = epochs, learning_rate, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        for name, count in (("users", num_users), ("items", num_items + 1)):
            vectors = torch.rand(count, width, generator=self.generator)
            self.register_buffer(name, 0.1 * vectors - 0.05)
        self.items[0] = 0.0

    def fit(self, split: Split) -> None:
        sequences, which = split.sequences, split.training_events
        users = torch.from_numpy(sequences.event_users[which].astype(np.int64))
        items = torch.from_numpy(sequences.items[which].astype(np.int64))
        for _ in range(self.epochs):
            order = torch.randperm(len(items), generator=self.generator)
            negatives = torch.randint(1, len(self.items), (len(items),), generator=self.generator)
            for events in order.split(self.batch_size):
                self.step(users[events], items[events], negatives[events])

    def step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> None:
        """Ascend the gradient of sum log sigmoid(u'(p - n)) over comparisons, each (S,) int64."""
        user, positive, negative = self.users[users], self.items[positives], self.items[negatives]
        difference = positive - negative
        slope = self.learning_rate * torch.sigmoid(-(user * difference).sum(-1, keepdim=True))
        self.users.index_add_(0, users, slope * difference)
        self.items.index_add_(0, positives, slope * user)
        self.items.index_add_(0, negatives, -slope * user)

    def item_vectors(self) -> Tensor:
        return self.items

    def encode(self, batch: Batch) -> Tensor:
        """The mean vector of each history's items, at its end alone, (B, 1, width)."""
        return self.last_states(batch)[:, None]

    def last_states(self, batch: Batch) -> Tensor:
        """The mean vector of each history's items, (B, width)."""
        length = (batch.items > 0).sum(1, keepdim=True)
        return self.items[batch.items].sum(1) / length  # padding is a zero vector
