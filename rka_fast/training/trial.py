"""How long work takes, tried before much of it is done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from rka_fast.models.base import Recommender


def seconds_of(work: Callable[[], object], device: torch.device | str) -> float:
    """Seconds that work on a device takes the second time; the first one warms up."""
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        work()
        if torch.device(device).type != "cpu":
            torch.accelerator.synchronize(device)
        seconds = time.perf_counter() - begin
    return seconds


def optimizer_seconds(
    model: Recommender, make: Callable[[Recommender], Optimizer], device: torch.device
) -> float:
    """Those of an optimiser's step by the gradients that the model has, on a copy of its weights.

    The copy and its moments take less than a checkpoint while it is saved.
    """
    twin = copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})
    for weight, original in zip(twin.parameters(), model.parameters(), strict=True):
        weight.grad = original.grad
    return seconds_of(make(twin).step, device)
