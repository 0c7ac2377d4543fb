"""What attention logits gain by how far apart two events are, in positions and in time."""

import torch
from torch import Tensor, nn

from rka_fast.ops.arguments import TIME_BUCKETS
from rka_fast.ops.groups import RelativeTimes

Times = tuple[Tensor, Tensor]
"""Of the request at every row and of every key's event, int64 (B, n) each, in seconds."""


class RelativeBias(nn.Module):
    """Learned terms of the location of one block, shared by its heads (HSTU, arXiv 2402.17152).

    time: one number for each bucket of the time from a key's event to the request of a row, which
        is when the event to be predicted happens. position: one for each distance in positions.
    """

    def __init__(self, max_length: int, time: bool, position: bool) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.empty(1, TIME_BUCKETS)) if time else None
        self.position = nn.Parameter(torch.empty(max_length)) if position else None
        for table in self.parameters():
            nn.init.normal_(table, std=0.02)

    def forward(
        self, rows: int, length: int, times: Times | None
    ) -> tuple[Tensor | None, RelativeTimes | None]:
        """The bias (rows, length) and the times of a `Location`, each None where it has none.

        rows: how many positions ask, the last ones of the length.
        """
        bias = relative = None
        if self.position is not None:
            place = torch.arange(length, device=self.position.device)
            bias = self.position[(place[length - rows :, None] - place).clamp_min(0)]
        if self.time is not None:
            assert times is not None  # as `uses_times` asked for
            requests, events = times
            relative = RelativeTimes(requests[:, length - rows :], events, self.time)
        return bias, relative


def relative_bias(max_length: int, time: bool, position: bool) -> RelativeBias | None:
    """None where there is neither."""
    return RelativeBias(max_length, time, position) if time or position else None
