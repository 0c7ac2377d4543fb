"""The loss of a step, in each of its processes."""

from __future__ import annotations

from torch import Tensor, nn

from rka_fast.data.batches import Batch
from rka_fast.models import Recommender


class StepLoss(nn.Module):
    """A model's training loss as a forward pass, for what wraps one (autocast, data parallel)."""

    def __init__(self, model: Recommender, loss: str) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.training_loss(batch, self.loss)


def weighted(parts: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The parts of a loss with the mean over targets at a weight, see `devices.shard`.

    Further terms are of the whole batch in every process and stay as they are.
    """
    if weight == 1:
        return parts
    per_target = parts.get("recommendation", parts["loss"])
    parts = {**parts, "loss": parts["loss"] + (weight - 1) * per_target}
    if "recommendation" in parts:
        parts["recommendation"] = weight * per_target
    return parts
