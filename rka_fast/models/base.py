"""The interface that every recommender has, from popularity to RKSA."""

import torch
from torch import Tensor, nn

from rka_fast.models.losses import recommendation_loss


class Recommender(nn.Module):
    """Scores every item as the next one after a batch of histories.

    A model that learns by gradients implements `encode` and `item_vectors` (and, if its score is
    another than their inner product, `scores` and `training_loss`). One that is fitted at once sets
    `trains` to False and implements `fit` and `scores`.
    """

    defaults: dict[str, object] = {}  # of Config, where they differ from the general ones
    losses: tuple[str, ...] = ("ce", "bce", "sampled_ce")  # the first is the default
    trains = True
    uses_cooccurrence = False  # wants Batch.cooccurrence
    uses_kernel_term = False  # wants Batch.term_items and Batch.term_counts

    @classmethod
    def from_config(cls, config, split) -> "Recommender":
        """The model for a configuration and the catalogue of a split."""
        raise NotImplementedError

    def fit(self, split) -> None:
        """Estimation from the training events at once; nothing for models that train."""

    def encode(self, batch) -> Tensor:
        """States (B, n, width) after each position of Batch.items."""
        raise NotImplementedError

    def item_vectors(self) -> Tensor:
        """Output embedding (num_items + 1, width); row 0 is padding."""
        raise NotImplementedError

    def extra_losses(self, batch) -> dict[str, Tensor]:
        """Weighted further terms of the loss by name."""
        return {}

    def training_loss(self, batch, config) -> dict[str, Tensor]:
        """ "loss" (mean over the batch's targets, plus further terms) and its parts."""
        wanted = batch.targets > 0
        negatives = None if batch.negatives is None else batch.negatives[wanted]
        main = recommendation_loss(
            config.loss,
            self.encode(batch)[wanted],
            batch.targets[wanted],
            self.item_vectors(),
            negatives,
        )
        parts = {"recommendation": main, **self.extra_losses(batch)}
        return {"loss": sum(parts.values()), **parts} if len(parts) > 1 else {"loss": main}

    def scores(self, batch, candidates: Tensor | None = None) -> Tensor:
        """Score of each candidate (B, C), or of all items (B, num_items + 1), padding at -inf."""
        state = self.encode(batch)[:, -1]
        vectors = self.item_vectors()
        if candidates is not None:
            return (vectors[candidates] @ state.unsqueeze(-1)).squeeze(-1)
        return without_padding(state @ vectors.T)


def without_padding(scores: Tensor) -> Tensor:
    """Scores (B, num_items + 1) with the padding column at -inf."""
    scores[:, 0] = -torch.inf
    return scores
