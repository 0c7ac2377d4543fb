"""What SASRec and RKSA share: embeddings and blocks around one attention each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.models.base import Recommender
from rka_fast.models.groups import LengthGroups, grouped
from rka_fast.models.item_table import ItemTable, folded, item_table, vectors_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from rka_fast.data.batches import Batch
    from rka_fast.data.split import Split


class FeedForward(nn.Module):
    """Position-wise ReLU network with its residual."""

    def __init__(self, width: int, dropout: float, expansion: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, expansion * width)
        self.outer = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.dropout(self.inner(x)))
        return x + self.dropout(self.outer(hidden))


class Block(nn.Module):
    """query = LN(x), key = value = x; the residual adds LN(x) (SASRec's and the paper's order)."""

    usual_expansion: ClassVar[int] = 1

    def __init__(
        self, attention: nn.Module, width: int, dropout: float, expansion: int | None
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_forward = FeedForward(width, dropout, expansion or self.usual_expansion)

    def forward(self, x: Tensor, groups: LengthGroups, inputs: list[dict[str, Any]]) -> Tensor:
        query = self.attention_norm(x)
        parts = zip(groups.unpack(query), groups.unpack(x), groups.groups, inputs, strict=True)
        attended = [self.attention(q, y, group.padding, **more) for q, y, group, more in parts]
        return self.feed_forward(self.feed_forward_norm(query + groups.pack(attended)))

    def last(self, x: Tensor, groups: LengthGroups, inputs: list[dict[str, Any]]) -> Tensor:
        """The same for the last position of every row alone, (B, width)."""
        query = self.attention_norm(groups.last(x))
        attended = groups.attend_last(self.attention, query, x, inputs)
        return self.feed_forward(self.feed_forward_norm(query + attended))


class SwiGLU(nn.Module):
    """W_c drop(SiLU(W_a x) * W_b x), without biases (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, dropout: float, expansion: int) -> None:
        super().__init__()
        hidden = expansion * width
        self.gate, self.inner = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.outer = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.dropout(F.silu(self.gate(x)) * self.inner(x)))


class GatedBlock(nn.Module):
    """x + sigmoid(W x + b) * drop(f(LN(x))), with f the attention and then SwiGLU.

    The gates read x as it is. LiGR (Borisyuk et al., arXiv 2502.03417), as eSASRec has it.
    """

    usual_expansion: ClassVar[int] = 4

    def __init__(
        self, attention: nn.Module, width: int, dropout: float, expansion: int | None
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.attention_gate = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_forward_gate = nn.Linear(width, width)
        self.feed_forward = SwiGLU(width, dropout, expansion or self.usual_expansion)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, groups: LengthGroups, inputs: list[dict[str, Any]]) -> Tensor:
        parts = zip(groups.unpack(self.attention_norm(x)), groups.groups, inputs, strict=True)
        attended = groups.pack([self.attention(y, y, g.padding, **more) for y, g, more in parts])
        x = x + torch.sigmoid(self.attention_gate(x)) * self.dropout(attended)
        return self._position_wise(x)

    def last(self, x: Tensor, groups: LengthGroups, inputs: list[dict[str, Any]]) -> Tensor:
        """The same for the last position of every row alone, (B, width)."""
        key = self.attention_norm(x)
        attended = groups.attend_last(self.attention, groups.last(key), key, inputs)
        x = groups.last(x)
        return self._position_wise(
            x + torch.sigmoid(self.attention_gate(x)) * self.dropout(attended)
        )

    def _position_wise(self, x: Tensor) -> Tensor:
        hidden = self.feed_forward(self.feed_forward_norm(x))
        return x + torch.sigmoid(self.feed_forward_gate(x)) * self.dropout(hidden)


BLOCKS: dict[str, type[Block | GatedBlock]] = {"sasrec": Block, "ligr": GatedBlock}
"""The blocks by the name of the setting `block`."""


class TransformerRecommender(Recommender):
    """x_t = e_{i_t} sqrt(d) + p_t through blocks; the item embedding is the output embedding too.

    `attentions` are modules called as attention(query, x, padding, **inputs) on
    (b, l, width) with padding (b, l) True at positions without an item, for rows of similar length;
    inputs are what `attention_inputs` says. The query may be that of the last position alone,
    (b, 1, width).

    block: "sasrec", or "ligr": gated blocks, no sqrt(d), no final normalisation, and the tables
        and all of the blocks that has two dimensions or more start Xavier-normal.
    expansion: hidden width of the position-wise network in widths; None is the block's usual one.
    temperature: states and items are compared by their cosine over it; None, by inner product.
    tied: False gives the output an item embedding of its own.
    features: float32 (num_items, F), which the item vectors are made of too; see `ItemTable`.
    uses_times: whether the attentions take `times`, those of the requests and of the events.
    """

    has_attention = True

    def __init__(
        self,
        num_items: int,
        attentions: Sequence[nn.Module],
        max_length: int,
        width: int,
        dropout: float,
        *,
        block: str,
        expansion: int | None,
        temperature: float | None,
        tied: bool,
        uses_times: bool,
        features: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.uses_times = uses_times
        gated = block == "ligr"
        self.temperature, self.scale = temperature, 1.0 if gated else math.sqrt(width)
        self.items = item_table(num_items, width, features)
        self.positions = nn.Embedding(max_length, width)
        self.output = None if tied else item_table(num_items, width, features)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            BLOCKS[block](attention, width, dropout, expansion) for attention in attentions
        )
        self.norm = nn.Identity() if gated else nn.LayerNorm(width, eps=1e-8)
        self.initialise_table = nn.init.xavier_normal_ if gated else _normal
        if gated:
            for parameter in self.blocks.parameters():
                if parameter.dim() >= 2:
                    nn.init.xavier_normal_(parameter)
        for table in filter(None, (self.items, self.positions, self.output)):
            self.initialise_table(table.weight)
            if table.padding_idx == 0:
                nn.init.zeros_(table.weight[0].data)

    @classmethod
    def from_config(cls, config: object, split: Split) -> Self:
        model = super().from_config(config, split)
        for table in model._featured():
            table.trained.copy_(torch.from_numpy(split.train_counts() > 0)[:, None])
        return model

    def _featured(self) -> list[ItemTable]:
        return [table for table in (self.items, self.output) if isinstance(table, ItemTable)]

    def fold_features(self) -> None:
        """Turn what features give into plain tables; the model is then not to be trained on."""
        self.items = folded(self.items)
        self.output = None if self.output is None else folded(self.output)

    def compared(self, targets: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """Without items that only features describe where a loss normalises over all items.

        They are never a target, so they can only be wrong there.
        """
        vectors = self.item_vectors()
        if loss != "ce" or not (tables := self._featured()):
            return targets, vectors
        kept = tables[0].trained[:, 0] > 0
        kept[0] = True  # the padding keeps its place
        return (kept.cumsum(0) - 1)[targets], vectors[kept]

    def item_vectors(self) -> Tensor:
        weight = vectors_of(self.items if self.output is None else self.output)
        return weight if self.temperature is None else F.normalize(weight, dim=-1)

    def attention_inputs(
        self, batch: Batch, groups: LengthGroups, items: Tensor
    ) -> list[dict[str, Any]]:
        """Keyword arguments of every block's attention for each group; items (P, width) vectors."""
        if not self.uses_times:
            return [{} for _ in groups.groups]
        if batch.times is None or batch.request_times is None:
            raise ValueError(
                "batch.times: expected int64 (B, n) for a model with time_bias, got None; make "
                "batches by Batcher(..., times=True)"
            )

        def times(rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
            return batch.request_times[rows, -length:], batch.times[rows, -length:]

        return [{"times": times(g.rows, g.places.shape[1])} for g in groups.groups]

    def encode(self, batch: Batch) -> Tensor:
        x, groups, inputs = self._embedded(batch)
        for block in self.blocks:
            x = block(x, groups, inputs)
        return groups.unpack_all(self._states(x))

    def last_states(self, batch: Batch) -> Tensor:
        """As the last of `encode`, up to rounding; the last block computes nothing else."""
        if torch.compiler.is_exporting():  # no number says there which row of all is the last
            return super().last_states(batch)
        x, groups, inputs = self._embedded(batch)
        for block in self.blocks[:-1]:
            x = block(x, groups, inputs)
        final: Any = self.blocks[-1]
        return self._states(final.last(x, groups, inputs))

    def _embedded(self, batch: Batch) -> tuple[Tensor, LengthGroups, list[dict[str, Any]]]:
        """The items with their positions (P, width), the groups, what the attentions take."""
        groups = grouped(batch.items)
        items = self.items(groups.of(batch.items))
        # Left-padded: the newest item always has the last position.
        position = groups.position + self.positions.num_embeddings - batch.items.shape[1]
        x = self.dropout(items * self.scale + self.positions(position))
        return x, groups, self.attention_inputs(batch, groups, items)

    def _states(self, x: Tensor) -> Tensor:
        states = self.norm(x)
        if self.temperature is not None:
            states = F.normalize(states, dim=-1) / self.temperature
        return states


def _normal(weight: Tensor) -> Tensor:
    return nn.init.normal_(weight, std=0.02)
