"""Losses on states: what the next item is, and what the item kernel must explain.

Shapes: P positions, k negatives each. states (P, width); targets (P,) in 1..num_items; vectors
(num_items + 1, width), row 0 is padding; negatives (P, k), None for a loss that compares with all
items. Each loss is a mean over the positions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """Softmax cross-entropy over all items."""
    return F.cross_entropy(states @ vectors[1:].T, targets - 1)


def binary_cross_entropy(
    states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """Of the target as a positive, and of the negatives, each averaged (SASRec)."""
    scores = candidate_scores(states, targets, vectors, negatives)
    return F.softplus(-scores[:, 0]).mean() + F.softplus(scores[:, 1:]).mean()


def sampled_cross_entropy(
    states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """Softmax cross-entropy over the target and its negatives."""
    scores = candidate_scores(states, targets, vectors, negatives)
    return (scores.logsumexp(-1) - scores[:, 0]).mean()


def candidate_scores(
    states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """Inner products (P, 1 + k) of the states with the target, first, and its negatives."""
    if negatives is None:
        raise ValueError("negatives: expected a tensor (P, k), got None")
    candidates = torch.cat((targets[:, None], negatives), dim=1)  # one look-up, one gradient
    return (F.embedding(candidates, vectors) @ states.unsqueeze(-1)).squeeze(-1)


class Loss(NamedTuple):
    """compute: as above; None where the model that has the loss computes it itself.

    negatives: sampled per position unless told otherwise; 0 where there are none to sample.
    """

    compute: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] | None
    negatives: int = 0


LOSSES = {
    "ce": Loss(cross_entropy),
    "bce": Loss(binary_cross_entropy, negatives=1),
    "sampled_ce": Loss(sampled_cross_entropy, negatives=128),
    "hinge": Loss(None, negatives=1),  # of distances with a margin (AttRec)
}
"""The losses by the name of the setting `loss`; `Recommender.losses` says which a model can use."""

STATE_LOSSES = tuple(name for name, loss in LOSSES.items() if loss.compute)
"""Those that are computed from states and item vectors."""


def recommendation_loss(
    loss: str, states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """The loss of this name. Raises ValueError for one that is not computed from states."""
    compute = LOSSES[loss].compute if loss in LOSSES else None
    if compute is None:
        raise ValueError(f"loss: expected one of {', '.join(STATE_LOSSES)}, got {loss!r}")
    return compute(states, targets, vectors, negatives)


def kernel_loss(vectors: Tensor, counts: Tensor, concentration: Tensor) -> Tensor:
    """How badly the item kernel explains the counting kernel over a set of S items.

    Mean over items with any co-occurrence of the cross-entropy from the row-normalised counting
    kernel to softmax_j 2 gamma cos(e_i, e_j), both without the diagonal. vectors (S, width),
    counts (S, S) with the supports on the diagonal. The form of this loss is ours.
    """
    with torch.no_grad():
        scale = counts.diagonal().clamp_min(1.0).rsqrt()
        relation = (counts * scale[:, None] * scale).fill_diagonal_(0.0)
        total = relation.sum(-1)
        related = total > 0
        relation /= total.clamp_min(1e-12)[:, None]
    unit = F.normalize(vectors, dim=-1)
    logits = ((2.0 * concentration * unit) @ unit.T).to(counts.dtype)  # sums are not of bfloat16
    # Related rows of `relation` sum to 1: the normaliser counts once, and needs no softmax.
    own = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    others = logits.masked_fill(own, torch.finfo(logits.dtype).min).logsumexp(-1)
    return ((others * related).sum() - (relation * logits).sum()) / related.sum().clamp_min(1)
