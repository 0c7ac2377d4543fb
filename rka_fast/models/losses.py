"""Losses on states: what the next item is, and what the item kernel must explain.

Shapes: P positions, k negatives each. states (P, width); targets (P,) in 1..num_items; vectors
(num_items + 1, width), row 0 is padding. Each loss is a mean over the positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

WHOLE = 2**28
"""Products of states and items up to which cross-entropy holds them all: 1 GiB in float32."""

CHUNK = 2**25
"""Products that it holds at once where there are more."""


class LossOptions(NamedTuple):
    """What a loss reads beside its inputs.

    calibration: t of gbce, from 0 (binary cross-entropy) to 1 (calibrated probabilities).
    log_q: whether sampled_ce weighs the negatives for how rarely an item is drawn.
    sparse: whether item vectors that are parameters get sparse gradients of what is looked up.
    """

    calibration: float = 0.75
    log_q: bool = False
    sparse: bool = False


DEFAULT_OPTIONS = LossOptions()


class Scores(NamedTuple):
    """Of the targets, (P,), and of their negatives, (P, k); -inf where one is the target itself."""

    targets: Tensor
    negatives: Tensor


def cross_entropy(states: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
    """Softmax cross-entropy over all items.

    Above `WHOLE` products in chunks of positions, whose products are computed again in the
    backward pass, so that memory does not grow with positions times items.
    """
    items = vectors[1:]
    if len(states) * len(items) <= WHOLE:
        return F.cross_entropy(states @ items.T, targets - 1)

    def of_some(some_states: Tensor, some_targets: Tensor) -> Tensor:
        return F.cross_entropy(some_states @ items.T, some_targets - 1, reduction="sum")

    size = max(1, CHUNK // len(items))
    chunks = zip(states.split(size), targets.split(size), strict=True)
    sums = [
        checkpoint(of_some, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return torch.stack(sums).sum() / len(states)


def binary_cross_entropy(scores: Scores, num_items: int, options: LossOptions) -> Tensor:
    """Of the target as a positive, and of the negatives, each averaged (SASRec)."""
    return F.softplus(-scores.targets).mean() + F.softplus(scores.negatives).mean()


def generalised_binary_cross_entropy(
    scores: Scores, num_items: int, options: LossOptions
) -> Tensor:
    """-(beta log sigma(s+) + sum log(1 - sigma(s-))) / (k + 1), beta = alpha t - t + 1.

    alpha = k / (num_items - 1) is the share of the items that are drawn, t the calibration: with
    t = 1 the probabilities are calibrated in spite of the drawing (gSASRec, Petrov and Macdonald,
    RecSys 2023, arXiv 2308.07192).
    """
    k, t = scores.negatives.shape[1], options.calibration
    beta = 1.0 - t * (1.0 - k / (num_items - 1))
    positive = beta * F.softplus(-scores.targets)
    return (positive + F.softplus(scores.negatives).sum(-1)).mean() / (k + 1)


def sampled_cross_entropy(scores: Scores, num_items: int, options: LossOptions) -> Tensor:
    """Softmax cross-entropy over the target and its negatives.

    With options.log_q a negative's score is lowered by the logarithm of how often it is drawn,
    k / (num_items - 1), so that the negatives stand for all items but the target.
    """
    negatives = scores.negatives
    if options.log_q:
        negatives = negatives - math.log(negatives.shape[1] / (num_items - 1))
    every = torch.cat((scores.targets[:, None], negatives), dim=1)
    return (every.logsumexp(-1) - scores.targets).mean()


def candidate_scores(
    states: Tensor,
    targets: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    rows: Tensor | None = None,
    sparse: bool = False,
) -> Scores:
    """Inner products of the states with their targets and negatives.

    negatives: (P, k), of each position; (k,), shared by all; or, with rows (P,) ascending in
    0..B-1, (B, k), shared by the positions of a row. Shared ones are a matrix product. sparse: as
    in `LossOptions`.
    """
    sparse = sparse and vectors.is_leaf
    if negatives.dim() == 2 and rows is None:
        candidates = torch.cat((targets[:, None], negatives), dim=1)  # one look-up, one gradient
        scores = (F.embedding(candidates, vectors, sparse=sparse) @ states.unsqueeze(-1)).squeeze(
            -1
        )
        return Scores(scores[:, 0], scores[:, 1:])
    found, drawn = F.embedding(negatives, vectors, sparse=sparse), negatives
    if rows is None:
        scores = states @ found.T
    else:
        lengths = rows.bincount(minlength=len(negatives))
        place = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
        padded = states.new_zeros(len(negatives), int(lengths.max()), states.shape[1])
        padded = padded.index_put((rows, place), states)
        scores, drawn = (padded @ found.mT)[rows, place], negatives[rows]
    positive = (F.embedding(targets, vectors, sparse=sparse) * states).sum(-1)
    return Scores(positive, scores.masked_fill(drawn == targets[:, None], -torch.inf))


class Loss(NamedTuple):
    """compute: of the scores, the number of items and the options; None where the loss needs no
    negatives, or where the model that has it computes it itself.

    negatives: sampled per position unless told otherwise; 0 where there are none to sample.
    """

    compute: Callable[[Scores, int, LossOptions], Tensor] | None = None
    negatives: int = 0


LOSSES = {
    "ce": Loss(),
    "bce": Loss(binary_cross_entropy, negatives=1),
    "gbce": Loss(generalised_binary_cross_entropy, negatives=256),
    "sampled_ce": Loss(sampled_cross_entropy, negatives=128),
    "hinge": Loss(negatives=1),  # of distances with a margin (AttRec)
}
"""The losses by the name of the setting `loss`; `Recommender.losses` says which a model can use."""

STATE_LOSSES = ("ce", *(name for name, loss in LOSSES.items() if loss.compute))
"""Those that are computed from states and item vectors."""

SHARING = ("none", "sequence", "batch")
"""Who shares negatives: nobody, the positions of a sequence, or all of a batch."""


def recommendation_loss(
    loss: str,
    states: Tensor,
    targets: Tensor,
    vectors: Tensor,
    negatives: Tensor | None,
    rows: Tensor | None = None,
    options: LossOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """The loss of this name; negatives and rows as in `candidate_scores`, None for "ce".

    Raises ValueError for a loss that is not computed from states, or lacks its negatives.
    """
    if loss not in STATE_LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(STATE_LOSSES)}, got {loss!r}")
    compute = LOSSES[loss].compute
    if compute is None:
        return cross_entropy(states, targets, vectors)
    if negatives is None:
        raise ValueError(f"negatives: expected a tensor with loss {loss!r}, got None")
    scores = candidate_scores(states, targets, vectors, negatives, rows, options.sparse)
    return compute(scores, len(vectors) - 1, options)


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
