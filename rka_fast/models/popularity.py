"""POP: every user is offered the items that most training events are about (the baseline of
Hidasi et al., ICLR 2016)."""

import torch
from torch import Tensor

from rka_fast.models.base import Recommender, without_padding


class Popularity(Recommender):
    """Scores are the counts of training events."""

    trains = False
    losses = ()

    def __init__(self, num_items: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_items + 1))

    @classmethod
    def from_config(cls, config, split) -> "Popularity":
        return cls(split.sequences.num_items)

    def fit(self, split) -> None:
        self.counts.copy_(torch.from_numpy(split.train_counts()))

    def scores(self, batch, candidates: Tensor | None = None) -> Tensor:
        if candidates is not None:
            return self.counts[candidates]
        return without_padding(self.counts.repeat(len(batch.items), 1))
