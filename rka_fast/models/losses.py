"""Losses on states: what the next item is, and what the item kernel must explain."""

import torch
import torch.nn.functional as F
from torch import Tensor


def recommendation_loss(
    kind: str, states: Tensor, targets: Tensor, vectors: Tensor, negatives: Tensor | None
) -> Tensor:
    """Mean loss over P positions.

    kind "ce": softmax cross-entropy over all items; "bce": binary cross-entropy of the target and
    of k sampled negatives (SASRec); "sampled_ce": softmax cross-entropy over target and negatives.
    states (P, width), targets (P,) in 1..num_items, vectors (num_items + 1, width) with padding
    first, negatives (P, k).
    """
    if kind == "ce":
        return F.cross_entropy(states @ vectors[1:].T, targets - 1)
    candidates = torch.cat((targets[:, None], negatives), dim=1)  # one look-up, one gradient
    scores = (F.embedding(candidates, vectors) @ states.unsqueeze(-1)).squeeze(-1)
    if kind == "bce":
        return F.softplus(-scores[:, 0]).mean() + F.softplus(scores[:, 1:]).mean()
    if kind == "sampled_ce":
        return (scores.logsumexp(-1) - scores[:, 0]).mean()
    raise ValueError(f"loss: expected one of bce, ce, sampled_ce, got {kind!r}")


def kernel_term(vectors: Tensor, counts: Tensor, concentration: Tensor) -> Tensor:
    """How badly the item kernel explains the counting kernel over a set of S items.

    Mean over items with any co-occurrence of the cross-entropy from the row-normalised counting
    kernel to softmax_j 2 gamma cos(e_i, e_j), both without the diagonal. vectors (S, width),
    counts (S, S) with the supports on the diagonal. The form of this term is ours.
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
