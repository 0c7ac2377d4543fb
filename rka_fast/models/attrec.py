"""AttRec: next item recommendation with self-attentive metric learning (Zhang et al., 2018).

Distances, window, attention and loss are the paper's (arXiv 1808.06414), with its rule that no
vector leaves the unit ball, here by scaling longer ones down where they are used. Ours: windows
with fewer than five items attend to those there are (theirs are not trained on), every position
ends a window, negatives are uniform outside the user's training set, and someone without a user
vector has the mean of their items' vectors instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rka_fast.models.base import Recommender

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch


class AttRec(Recommender):
    """Long-term and short-term taste as distances; the smaller, the better.

    y(u, t, i) = alpha |U_u - V_i|^2 + (1 - alpha) |m_t - X_i|^2. m_t is the mean over the last L
    items of what each attends to: softmax(Q K' / sqrt(d)) X without the diagonal, Q = K =
    ReLU((X + sinusoids) W). The loss is the hinge max(0, margin + y(target) - y(negative)), mean
    over the next T items of every position.

    num_items, num_users: of the catalogue; items count from 1. width: d. window: L. targets: T.
    dropout: of the items in the window.
    """

    title = "AttRec"
    losses = ("hinge",)
    signal: Tensor  # (window, width)

    def __init__(
        self,
        num_items: int,
        num_users: int,
        *,
        width: int = 150,
        window: int = 5,
        targets: int = 3,
        alpha: float = 0.2,
        margin: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.targets, self.alpha, self.margin = targets, alpha, margin
        self.users = nn.Embedding(num_users, width)  # U
        self.long_items = nn.Embedding(num_items + 1, width, padding_idx=0)  # V
        self.short_items = nn.Embedding(num_items + 1, width, padding_idx=0)  # X
        self.projection = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("signal", sinusoids(window, width), persistent=False)
        for table in (self.users, self.long_items, self.short_items):
            nn.init.normal_(table.weight, std=0.01)
        for table in (self.long_items, self.short_items):
            nn.init.zeros_(table.weight[0].data)

    def item_vectors(self) -> Tensor:
        """[sqrt(alpha) V, sqrt(1 - alpha) X], so that y is one squared distance to a state."""
        return self._joined(
            in_unit_ball(self.long_items.weight), in_unit_ball(self.short_items.weight)
        )

    def encode(self, batch: Batch) -> Tensor:
        """[sqrt(alpha) U, sqrt(1 - alpha) m] after every position, 0 at padding."""
        real = batch.items > 0
        windows = nn.functional.pad(batch.items, (len(self.signal) - 1, 0))
        windows = windows.unfold(1, len(self.signal), 1)[real]
        row = real.nonzero()[:, 0]
        states = self._joined(self._long_term(batch)[row], self._short_term(windows))
        return states.new_zeros(*real.shape, states.shape[-1]).index_put((real,), states)

    def training_loss(self, batch: Batch, loss: str) -> dict[str, Tensor]:
        states, vectors = self.encode(batch), self.item_vectors()
        losses = []
        for ahead in range(min(self.targets, batch.items.shape[1])):
            targets, negatives = batch.targets[:, ahead:], batch.negatives[:, ahead:]
            ends = batch.items[:, : targets.shape[1]] > 0
            state = states[:, : targets.shape[1]][ends].unsqueeze(1)
            positive = squared_distance(state, vectors[targets[ends]].unsqueeze(1))
            negative = squared_distance(state, vectors[negatives[ends]])
            losses.append(torch.relu(self.margin + positive - negative).flatten())
        return {"loss": torch.cat(losses).mean()}

    def match(self, states: Tensor, vectors: Tensor) -> Tensor:
        """-y, the negative distances."""
        return -torch.cdist(states, vectors, compute_mode="use_mm_for_euclid_dist").square()

    def _long_term(self, batch: Batch) -> Tensor:
        """U (B, width); for users outside the data the mean of V over their items."""
        known = (batch.users >= 0).unsqueeze(-1)
        users = in_unit_ball(self.users(batch.users.clamp_min(0)))
        if known.all():
            return users
        items = in_unit_ball(self.long_items(batch.items)).sum(1)
        return torch.where(known, users, items / (batch.items > 0).sum(1, keepdim=True))

    def _short_term(self, windows: Tensor) -> Tensor:
        """m (P, width) of the items (P, L) of windows, left padded with 0."""
        real = windows > 0
        x = self.dropout(in_unit_ball(self.short_items(windows)))
        query = torch.relu(self.projection(x + self.signal))
        affinity = query @ query.transpose(1, 2) / math.sqrt(x.shape[-1])
        alone = torch.eye(windows.shape[1], dtype=torch.bool, device=x.device)
        alone = alone & (real.sum(1) > 1)[:, None, None]  # a single item sees itself
        affinity = affinity.masked_fill(alone | ~real.unsqueeze(1), -torch.inf)
        attended = affinity.softmax(-1) @ x * real.unsqueeze(-1)
        return attended.sum(1) / real.sum(1, keepdim=True)

    def _joined(self, long: Tensor, short: Tensor) -> Tensor:
        return torch.cat((math.sqrt(self.alpha) * long, math.sqrt(1 - self.alpha) * short), -1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 over the last dimension."""
    return (a - b).square().sum(-1)


def in_unit_ball(x: Tensor) -> Tensor:
    """Vectors longer than 1 scaled down to 1."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1.0)


def sinusoids(length: int, width: int) -> Tensor:
    """Time signal (length, width): sines in the first half, cosines in the second."""
    rate = torch.exp(-math.log(10000.0) * torch.arange((width + 1) // 2) / (width / 2))
    angle = torch.arange(length).unsqueeze(1) * rate
    return torch.cat((angle.sin(), angle.cos()), -1)[:, :width]
