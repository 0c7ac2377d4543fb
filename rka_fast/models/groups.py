"""Histories of different lengths without their padding, and in groups of similar length with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions of padding that take as long as the launches of one more group.
WORTH_A_GROUP = 1024
FULL = 0.9
"""The share of positions with an item from which on packing takes longer than the padding."""


class Group(NamedTuple):
    """Rows of a batch, padded in front to the longest of them.

    rows: (b,), of the batch. places: (b, l), packed places counted from 1; 0 is padding.
    """

    rows: Tensor
    places: Tensor

    @property
    def padding(self) -> Tensor:
        return self.places == 0


class LengthGroups:
    """The P positions of items (B, n) that hold one, in groups of rows of similar length.

    0, in front, is padding.

    What looks at one position at a time works on packed values (P, width), what looks at whole
    histories on one tensor (b, l, width) for each of `groups`.
    """

    def __init__(self, items: Tensor) -> None:
        self.present = items > 0
        self.position = self.present.nonzero()[:, 1]
        places = torch.where(self.present, self.present.flatten().cumsum(0).view_as(items), 0)
        self.every = Group(torch.arange(len(items), device=items.device), places)
        # A GPU computes padding in less time than it takes to launch more kernels.
        self.groups = _groups(places) if items.is_cpu else [self.every]
        unpacked = torch.cat([group.places.flatten() for group in self.groups])
        filled = unpacked.nonzero()[:, 0]
        self.order = torch.empty_like(filled)
        self.order[unpacked[filled] - 1] = filled

    def of(self, x: Tensor) -> Tensor:
        """(B, n) as (P,): what is at the positions that hold an item."""
        return x[self.present]

    def unpack(self, x: Tensor, groups: list[Group] | None = None) -> list[Tensor]:
        """(P, width) as (b, l, width) for each group, zero where there is padding."""
        x = F.pad(x, (0, 0, 1, 0))
        return [F.embedding(g.places, x, padding_idx=0) for g in groups or self.groups]

    def unpack_all(self, x: Tensor) -> Tensor:
        """(P, width) as (B, n, width), zero where there is padding."""
        return self.unpack(x, [self.every])[0]

    def pack(self, parts: list[Tensor]) -> Tensor:
        """(b, l, width) for each group as (P, width)."""
        return torch.cat([x.flatten(0, 1) for x in parts]).index_select(0, self.order)

    def last(self, x: Tensor) -> Tensor:
        """(P, width) as (B, width): the last position of every row; rows are not empty."""
        return x[self.every.places[:, -1] - 1]

    def attend_last(
        self,
        attention: Callable[..., Tensor],
        query: Tensor,
        x: Tensor,
        inputs: list[dict[str, Any]],
    ) -> Tensor:
        """What `attention` gives the last position of every row, (B, width).

        query: (B, width) of these positions. x: (P, width), the keys. inputs: for each group.
        """
        parts = []
        for group, keys, more in zip(self.groups, self.unpack(x), inputs, strict=True):
            attended = attention(query[group.rows, None], keys, group.padding, **more)
            parts.append(attended[:, 0])
        if len(parts) == 1:  # of all rows
            return parts[0]
        rows = torch.cat([group.rows for group in self.groups])
        return torch.cat(parts)[rows.argsort()]


class OneGroup(LengthGroups):
    """Every position in its place, padding too: where there is little.

    And in graphs, whose shapes no value may decide.
    """

    def __init__(self, items: Tensor) -> None:
        batch, length = items.shape
        self.position = torch.arange(length, device=items.device).repeat(batch)
        place = torch.arange(1, batch * length + 1, device=items.device).view(batch, length)
        places = torch.where(items > 0, place, 0)
        self.every = Group(torch.arange(batch, device=items.device), places)
        self.groups = [self.every]

    def of(self, x: Tensor) -> Tensor:
        return x.flatten()

    def unpack(self, x: Tensor, groups: list[Group] | None = None) -> list[Tensor]:
        """As it is, padding too, for attention, which masks it."""
        if groups is not None:
            return super().unpack(x, groups)
        return [x.unflatten(0, self.every.places.shape)]

    def pack(self, parts: list[Tensor]) -> Tensor:
        return parts[0].flatten(0, 1)

    def last(self, x: Tensor) -> Tensor:
        return x.unflatten(0, self.every.places.shape)[:, -1]


def grouped(items: Tensor) -> LengthGroups:
    """The groups of a batch; one in a graph that is being exported, and where it is nearly full.

    Training always packs.
    """
    one = torch.compiler.is_exporting() or (not torch.is_grad_enabled() and _is_full(items))
    return OneGroup(items) if one else LengthGroups(items)


def _is_full(items: Tensor) -> bool:
    return int(items.count_nonzero()) >= FULL * items.numel()


def _groups(places: Tensor) -> list[Group]:
    """Lengths up to n/8, n/4, n/2 and n, where a group of its own saves enough padding."""
    lengths, longest = (places > 0).sum(dim=1), places.shape[1]
    bounds: list[int] = []
    for bound in (longest // 8, longest // 4, longest // 2):
        rows = (lengths <= bound).sum() - (lengths <= max(bounds, default=-1)).sum()
        if rows * bound >= WORTH_A_GROUP:  # as much as the next bound would add
            bounds.append(bound)
    group = torch.bucketize(lengths, torch.tensor(bounds, dtype=lengths.dtype))
    found = [(group == i).nonzero()[:, 0] for i in range(len(bounds) + 1)]
    return [
        Group(rows, places[rows, -max(1, int(lengths[rows].max())) :])
        for rows in found
        if len(rows)
    ]
