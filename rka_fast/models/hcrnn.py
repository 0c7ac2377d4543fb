"""HCRNN: hierarchical context enabled recurrent network (Song et al., AAAI 2019), variant 3.

The cell, the bi-attention and the loss are the paper's, and the attention is normalised by a
softmax as in the laboratory's program. Ours: the global context of a position is the bag of the
items up to it (theirs is the whole input, the same at the last position), so that one pass trains
on all prefixes; the weights of the temporary context's gate are kept non-negative as absolute
values; dropout on the embedded items (half the rate) and on the concatenated states; batches of
32 users, where theirs are 512 sessions: one user here trains on all its prefixes; a learning rate
of .002, better than .001 on CiteULike's validation items.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.steps import StepPacking

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch


class ContextCell(nn.Module):
    """The recurrent cell: local context c and hidden state h of (topic weights, input).

    a = softmax_k v' sigmoid(W1 theta_k V_k + W2 h), c~ = sum_k a_k V_k
    T1 = sigmoid([x, h] W + c W + b), c <- (1 - T1) c + T1 c~
    T2 = sigmoid((x * c) W+ + b) with W+ >= 0
    r = sigmoid([x, h] W + b), h~ = tanh([x, r * T2 * h] W + b)
    z = sigmoid([x, h] W + c W + b), h <- (1 - z) h + z h~

    with its own W and b in every line, and c = h = 0 before the first step.
    """

    def __init__(self, width: int, topics: int) -> None:
        super().__init__()
        self.topics = nn.Parameter(torch.empty(topics, width))  # V
        self.attend_topics = nn.Linear(width, width, bias=False)  # W1
        self.attend_weight = nn.Linear(width, 1, bias=False)  # v
        self.from_input = nn.Linear(width, 4 * width)  # of T1, r, z and h~
        self.from_state = nn.Linear(width, 4 * width, bias=False)  # of T1, r, z and W2
        self.from_local = nn.Linear(width, 2 * width, bias=False)  # of z, and of the next T1
        self.temporary = nn.Linear(width, width)  # W+, as its absolute values
        self.candidate = nn.Linear(width, width, bias=False)  # of h~
        nn.init.xavier_normal_(self.topics)

    def forward(self, packing: StepPacking, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states and local contexts, each (P, width).

        x: packed inputs (P, width). theta: packed topic weights (P, topics).
        """
        topic_keys = self.attend_topics(self.topics)
        positive = self.temporary.weight.abs()
        h = c = c_gate = x.new_zeros(int(packing.sizes[0]), x.shape[1])
        states, contexts = [], []
        inputs = zip(*map(packing.steps, (x, self.from_input(x), theta)), strict=True)
        for x_t, x_gates, theta_t in inputs:
            h, c, c_gate = (state[: len(x_t)] for state in (h, c, c_gate))
            x_gate, x_reset, x_update, x_candidate = x_gates.chunk(4, -1)
            h_gate, h_reset, h_update, h_attend = self.from_state(h).chunk(4, -1)
            attended = torch.sigmoid(theta_t.unsqueeze(-1) * topic_keys + h_attend.unsqueeze(1))
            attention = self.attend_weight(attended).squeeze(-1).softmax(-1)
            gate = torch.sigmoid(x_gate + h_gate + c_gate)
            c = torch.lerp(c, attention @ self.topics, gate)
            c_update, c_gate = self.from_local(c).chunk(2, -1)
            temporary = torch.sigmoid(F.linear(x_t * c, positive, self.temporary.bias))
            reset = torch.sigmoid(x_reset + h_reset)
            candidate = torch.tanh(x_candidate + self.candidate(reset * temporary * h))
            update = torch.sigmoid(x_update + h_update + c_update)
            h = torch.lerp(h, candidate, update)
            states.append(h)
            contexts.append(c)
        return torch.cat(states), torch.cat(contexts)


class HCRNN(Recommender):
    """Global context by topics, the cell above, and two attentions over its states.

    Global context of position t: xbar = sum_{j <= t} e_{i_j}, e = ELU(xbar W + b), mu and
    s = 1e-6 + softplus(.) linear in e, theta = softmax(mu + s eps), in evaluation softmax(mu).
    Bi-attention: g and l pool the states h_j, j <= t, by softmaxes of
    (W1 c_j).(W2 c_t) / sqrt(d) and of v' sigmoid(W1 h_j + W2 h_t). The score of item i is
    e_i' B [g; l; h_t]. The loss adds `kl_weight` KL(N(mu, s) || N(0, 1)), mean over the targets.

    num_items: items count from 1. width: d, of everything. topics: rows of V. dropout: of
    [g; l; h_t]; the embedded items have half of it.
    """

    title = "HCRNN"
    defaults: ClassVar = {"batch_size": 32, "learning_rate": 2e-3}

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 100,
        topics: int = 50,
        dropout: float = 0.5,
        kl_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.context = nn.Linear(width, width)
        self.topic_mean, self.topic_scale = nn.Linear(width, topics), nn.Linear(width, topics)
        self.cell = ContextCell(width, topics)
        self.global_past = nn.Linear(width, width, bias=False)
        self.global_now = nn.Linear(width, width, bias=False)
        self.local_past = nn.Linear(width, width, bias=False)
        self.local_now = nn.Linear(width, width, bias=False)
        self.local_weight = nn.Linear(width, 1, bias=False)
        self.decoder = nn.Linear(3 * width, width, bias=False)
        self.input_dropout, self.dropout = nn.Dropout(dropout / 2), nn.Dropout(dropout)
        nn.init.xavier_normal_(self.items.weight[1:].data)

    def kept_beside(self, positions: float, pairs: float) -> float:
        # Keys of every topic at every step; of both attentions what is compared, and copies of what
        # it is compared with.
        topics, width = self.cell.topics.shape
        return positions * topics * width + 4 * pairs / 2 * width

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def topic_distribution(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """mu and s, each (B, n, topics), of the bags of items up to every position."""
        e = F.elu(self.context(self.items(items).cumsum(1)))
        return self.topic_mean(e), 1e-6 + F.softplus(self.topic_scale(e))

    def encode(self, batch: Batch) -> Tensor:
        """B [g; l; h_t]: the decoder is on the state's side, cheaper than on all items."""
        packing = StepPacking(batch.items)
        mean, scale = map(packing.pack, self.topic_distribution(batch.items))
        if self.training:
            mean = mean + scale * torch.randn_like(scale)
        x = self.input_dropout(self.items(packing.pack(batch.items)))
        h, c = self.cell(packing, x, mean.softmax(-1))
        pooled = (
            packing.pool(self.global_attention, self.global_now(c), self.global_past(c), h),
            packing.pool(self.local_attention, self.local_now(h), self.local_past(h), h),
        )
        return packing.unpack(self.decoder(self.dropout(torch.cat((*pooled, h), -1))))

    def global_attention(self, now: Tensor, past: Tensor) -> Tensor:
        """Weights (b, t) of W2 c_t (b, width) and W1 c_j (b, t, width)."""
        return ((past @ now.unsqueeze(-1)).squeeze(-1) / math.sqrt(now.shape[-1])).softmax(-1)

    def local_attention(self, now: Tensor, past: Tensor) -> Tensor:
        """Weights (b, t) of W2 h_t (b, width) and W1 h_j (b, t, width)."""
        return self.local_weight(torch.sigmoid(past + now.unsqueeze(1))).squeeze(-1).softmax(-1)

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        mean, scale = (x[batch.targets > 0] for x in self.topic_distribution(batch.items))
        divergence = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
        return {"kl": self.kl_weight * divergence.sum(-1).mean()}
