"""How the weights move: Adam, its learning rate, and the average that follows the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from rka_fast.models import Recommender

BETAS = (0.9, 0.98)

ROWS_ALONE = (
    "optimiser: lazy Adam of the item and user tables (--sparse-adam), another one than Adam: a "
    "row that a step does not read is not moved by its moments"
)
"""For a person, of a run that has it."""

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


def adam(model: Recommender, rate: float, weight_decay: float, sparse: bool) -> Optimizer:
    """Adam for a model. sparse: of tables of items and users only the rows that were read move."""
    if not sparse:
        return AdamW(
            model.parameters(), lr=rate, betas=BETAS, weight_decay=weight_decay, fused=True
        )
    tables = [model.get_parameter(name) for name in model.tables()]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    return RowAdam(tables, others, rate)


class RowAdam(Optimizer):
    """Lazy Adam (torch.optim.SparseAdam) for tables, and Adam for all other weights.

    A row of a table whose gradient is 0 keeps its weights and its moments, by which Adam would move
    it. The correction of the bias counts all steps, not those of the row.

    tables: (rows, width) each, with dense or sparse gradients. others: not empty. rate: the
    learning rate of both.
    """

    def __init__(self, tables: list[nn.Parameter], others: list[nn.Parameter], rate: float) -> None:
        self.parts = (
            AdamW(others, lr=rate, betas=BETAS, weight_decay=0.0, fused=True),
            SparseAdam(tables, lr=rate, betas=BETAS),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state  # loading replaces ours
        for table in self.param_groups[1]["params"]:
            if table.grad is not None:
                table.grad = _rows(table.grad)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The steps are tensors, as Adam's are; SparseAdam counts in numbers."""
        found = super().state_dict()
        state = {
            number: {**moments, "step": torch.tensor(float(moments["step"]))}
            for number, moments in found["state"].items()
        }
        return {**found, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for table in self.param_groups[1]["params"]:
            if table in self.state:
                self.state[table]["step"] = int(self.state[table]["step"])


def _rows(gradient: Tensor) -> Tensor:
    """The rows of a gradient that are not 0, as a sparse tensor."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        indices, values = gradient._indices()[0], gradient._values()
        kept = values.any(dim=1)
        indices, values = indices[kept], values[kept]
    else:
        indices = gradient.any(dim=1).nonzero()[:, 0]
        values = gradient[indices]
    return torch.sparse_coo_tensor(
        indices[None], values, gradient.shape, is_coalesced=True, check_invariants=False
    )


def to_clip(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The parameters for torch's clipping, which takes no sparse gradients.

    For one that has one stands a tensor of which the gradient is its rows, in the same memory.
    """
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None or not parameter.grad.is_sparse:
            found.append(parameter)
            continue
        parameter.grad = parameter.grad.coalesce()
        rows = parameter.grad._values()
        found.append(torch.empty_like(rows))
        found[-1].grad = rows
    return found


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
