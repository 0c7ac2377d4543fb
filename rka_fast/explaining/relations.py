"""How a history's items and recommended ones are related: kernels, counts, neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rka_fast.data.counting import Counts, counts_of
from rka_fast.explaining.asking import History, Trained, best
from rka_fast.models.rksa import KERNELS, RKSA
from rka_fast.ops.reference.covariance import cosine_kernel, counting_kernel
from rka_fast.recommending.similar import similar_items

NEIGHBOURS = 5
"""Of an item, that are told."""


@dataclass(frozen=True)
class KernelValues:
    """Of RKSA, between each recommended item (k,) and each event (n,) of a history.

    weights: of the kernels in the mixture, by name. concentration: gamma of item and user kernel.
    values: (k, n) of each kernel by name, and of the "mixture".
    """

    weights: dict[str, float]
    concentration: dict[str, float]
    values: dict[str, list[list[float]]]


@torch.no_grad()
def kernel_values(run: Trained, history: History, wanted: list[int]) -> KernelValues | None:
    """The kernels as the model makes them, with leave-self-out counts; None of other models."""
    model, batcher = run.model, run.batcher
    if not isinstance(model, RKSA):
        return None
    items = np.concatenate((history.items, np.array(wanted, np.int64)))[None]
    trained, counted = batcher.split.training_items, None
    if batcher.leave_self_out:
        counted = batcher.split.counted_items.contains(np.array([[history.user]]), items)
    assert batcher.cooccurrence is not None  # as `uses_cooccurrence` asked for
    counts = torch.from_numpy(batcher.cooccurrence.block(items, counted)).double()
    known = history.user >= 0 and bool(trained.distinct[history.user] > 0)
    user = torch.tensor([history.user if known else -1], device=model.users.weight.device)
    features = model.items.weight[torch.from_numpy(items).to(user.device)]
    made = model.kernels(features, model.users(user + 1), None, user >= 0)
    assert made.gate is not None and made.mixture is not None and made.concentration is not None
    weights = (made.mixture[0] * model.used).double().cpu()
    weights = weights / weights.sum()
    features, gate = features.double().cpu(), made.gate.double().cpu()
    gamma = made.concentration.double().cpu()
    n = len(history.items)
    kernels = (
        counting_kernel(counts),
        cosine_kernel(features, gamma[0]),
        cosine_kernel(features * gate[:, None], gamma[1]),
    )
    parts = [kernel[0, n:, :n] for kernel in kernels]
    mixture = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    values = dict(zip((*KERNELS, "mixture"), (*parts, mixture), strict=True))
    return KernelValues(
        weights=dict(zip(KERNELS, weights.tolist(), strict=True)),
        concentration=dict(zip(KERNELS[1:], gamma.tolist(), strict=True)),
        values={name: torch.as_tensor(x).tolist() for name, x in values.items()},
    )


class Neighbourhood:
    """What the training events say of items: how many have them, and who has both of two."""

    def __init__(self, run: Trained) -> None:
        split = run.batcher.split
        self.counts = run.batcher.cooccurrence or counts_of(split)
        self.holders = split.training_items.holders
        # 1 for the item that most have; equal ones share the better rank.
        ordered = np.sort(self.holders[1:])[::-1]
        self.rank = 1 + np.searchsorted(-ordered, -self.holders, side="left")

    def popular(self, hidden: np.ndarray, top: int) -> list[int]:
        """The items that most users trained on, of those that are not hidden."""
        return best(np.where(hidden, -np.inf, self.holders), top)

    def near(self, items: np.ndarray, hidden: np.ndarray, top: int) -> list[int]:
        """The items whose cosines with a history's sum to most, of those that are not hidden."""
        found = np.zeros(len(hidden))
        for item in items:
            found += self.counts.cosines(item[None])[0]
        return best(np.where(hidden, -np.inf, found), top)


def neighbours(
    run: Trained, items: list[int], by: str, counts: Counts | None = None
) -> list[list[tuple[int, float]]]:
    """Of each item the most similar ones, as `rka_fast.recommending.similar` has them, and how."""
    found, values = similar_items(run.model, run.batcher, np.array(items), NEIGHBOURS, by, counts)
    return [
        [(item, value) for item, value in zip(*row, strict=True) if item]
        for row in zip(found.tolist(), values.tolist(), strict=True)
    ]
