"""POP: every user is offered the items with most training events (the baseline of Hidasi et al.,
ICLR 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rka_fast.models.base import Recommender, without_padding

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch
    from rka_fast.data.split import Split


class Popularity(Recommender):
    """Scores are the counts of training events."""

    title = "POP"
    trains = has_vectors = False
    losses = ()
    counts: Tensor  # (num_items + 1,)

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_items + 1))

    def fit(self, split: Split) -> None:
        self.counts.copy_(torch.from_numpy(split.train_counts()))

    def scores(self, batch: Batch) -> Tensor:
        return without_padding(self.counts.repeat(len(batch.items), 1))
