"""What the recurrent recommenders share: real positions only, and pooling over the past."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


class StepPacking:
    """The real positions of left-padded histories, in the layout of PackedSequence.

    First come all first events, then all second ones, and so on, each from the longest history
    to the shortest: step t is the next `sizes[t]` rows, those of the `sizes[t]` longest histories.
    Padding is not there at all, so it has no influence and costs nothing.

    items: int64 (B, n), left padded with 0. Below, P is the number of real positions.
    """

    def __init__(self, items: Tensor) -> None:
        lengths = (items > 0).sum(1)
        self.shape = items.shape
        order = lengths.argsort(descending=True, stable=True)
        steps = torch.arange(items.shape[1], device=items.device)
        present = steps[:, None] < lengths[order]
        step, rank = present.nonzero(as_tuple=True)
        row = order[rank]
        self.where = row, items.shape[1] - lengths[row] + step  # row and column of every position
        sizes = present.sum(1).cpu()
        self.sizes = sizes[sizes > 0]

    def pack(self, x: Tensor) -> Tensor:
        """(B, n, ...) to (P, ...)."""
        return x[self.where]

    def unpack(self, packed: Tensor) -> Tensor:
        """(P, width) to (B, n, width), 0 at padding."""
        return packed.new_zeros(*self.shape, packed.shape[-1]).index_put(self.where, packed)

    def run(self, network: nn.RNNBase, packed: Tensor) -> Tensor:
        """States (P, hidden) of a recurrent network over inputs (P, width)."""
        return network(PackedSequence(packed, self.sizes))[0].data

    def steps(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Views (sizes[t], ...) of a packed tensor, one a step."""
        return packed.split(self.sizes.tolist())

    def pool(
        self,
        weigh: Callable[[Tensor, Tensor], Tensor],
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """sum_{j <= t} w_tj values_j of its own history at every position t, (P, width).

        weigh: of queries (b, width) and keys (b, t, width) of b histories up to step t, the
        weights (b, t). queries, keys, values: (P, width).
        """
        past_keys, past_values = (
            pad_packed_sequence(PackedSequence(x, self.sizes), batch_first=True)[0]
            for x in (keys, values)
        )
        pooled = []
        for t, query in enumerate(self.steps(queries), start=1):
            weights = weigh(query, past_keys[: len(query), :t])
            pooled.append((weights.unsqueeze(1) @ past_values[: len(query), :t]).squeeze(1))
        return torch.cat(pooled)
