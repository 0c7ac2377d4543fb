"""Relative times: the bucket of the seconds between a row and a key."""

import torch
from torch import Tensor

from rka_fast.ops.arguments import time_edges

FAR = torch.iinfo(torch.int64).max  # seconds, beyond the last edge


def buckets(row_times: Tensor, key_times: Tensor) -> Tensor:
    """floor(ln(max(1, |t_row - t_key|)) / TIME_STEP), at most the last: (batch, rows, keys)."""
    rows, keys = row_times[:, :, None], key_times[:, None, :]
    apart = torch.maximum(rows, keys) - torch.minimum(rows, keys)
    seconds = torch.where(apart < 0, FAR, apart.clamp_min(1))  # negative: beyond int64
    return (
        torch.bucketize(seconds, torch.tensor(time_edges(), device=seconds.device), right=True) - 1
    )


def bias(table: Tensor, bucket: Tensor) -> Tensor:
    """table (heads or 1, buckets) at the buckets (batch, rows, keys): (batch, heads or 1, ...)."""
    return table[:, bucket].transpose(0, 1)


def bias_backward(grad: Tensor, table: Tensor, bucket: Tensor) -> Tensor:
    """The gradient of the table from that of the logits (batch, heads, rows, keys)."""
    by_head = grad.transpose(0, 1).flatten(1)
    sums = grad.new_zeros(len(by_head), table.shape[1])
    return sums.index_add_(1, bucket.flatten(), by_head).sum_to_size(table.shape)
