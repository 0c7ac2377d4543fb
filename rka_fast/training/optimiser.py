"""How the weights move: the learning rate over the steps, and the average that follows them."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}
"""The share of the learning rate by the share of the steps after warming up that are done."""


def learning_rate(highest: float, warm_up: int | None, decay: str, step: int, total: int) -> float:
    """That of step `step`, from 0, of `total`: it rises over `warm_up` steps and then decays."""
    warm_up = warm_up or 0
    if step < warm_up:
        return (step + 1) / warm_up * highest
    return DECAYS[decay]((step - warm_up) / (total - warm_up)) * highest


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model whose weights are an exponential average of the model's.

    `update_parameters` after every step: average <- d average + (1 - d) weights. d is
    `decay`, and less in the beginning, (1 + t) / (10 + t) after t updates, since the first weights
    are random.
    """

    def update(averages: PARAM_LIST, weights: PARAM_LIST, updates: Tensor | int) -> None:
        t = int(updates)
        for average, current in zip(averages, weights, strict=True):
            average.lerp_(current, 1.0 - min(decay, (1 + t) / (10 + t)))

    return AveragedModel(model, multi_avg_fn=update)
