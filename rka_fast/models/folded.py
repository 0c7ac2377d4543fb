"""Attention by keys and values that are not projected, for evaluation.

A query A y meets the key W x as (A y)'(W x) = (W'A y)'x, and weights p of a row make of values V x
the output O sum p_j V x_j = O V sum p_j x_j. So W'A and O V are made once, and keys and values not
at all: that saves half of the projections with one head, and nearly all where one position asks.
Biases are weights of a one beside every x_j.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


def pays(query: Tensor, heads: int, *layers: nn.Module) -> bool:
    """Whether there is less to compute, and nothing that needs the projections themselves.

    That are gradients, layers with adapters, hooks or quantised, and GPUs, which project in less
    time than their kernels take over heads as wide as the model. query: (b, rows, width).
    """
    less = heads == 1 or query.shape[1] == 1
    return less and all(map(_is_plain, layers)) and query.is_cpu and not torch.is_grad_enabled()


def _is_plain(layer: nn.Module) -> bool:
    """Whether its weights are all there is to it: a pruned layer makes them in a hook."""
    return type(layer) in PLAIN and not (layer._forward_hooks or layer._forward_pre_hooks)


def unprojected(x: Tensor, heads: int) -> Tensor:
    """x (b, n, width) and a one beside each, (b, heads, n, width + 1): keys and values of heads."""
    return F.pad(x, (0, 1), value=1.0)[:, None].expand(-1, heads, -1, -1)


def of_heads(heads: int, weight: Tensor, bias: Tensor) -> Tensor:
    """A projection (width, d) and its bias (width,) by head, (heads, width of a head, d + 1)."""
    return torch.cat((weight, bias[:, None]), dim=1).unflatten(0, (heads, -1))


def ask(y: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Queries (b, heads, rows, d + 1) of unprojected keys, from y (b, rows, d).

    query, key: `of_heads`. Divided by sqrt(d + 1), as attention divides, the products are those of
    projected queries and keys divided by the root of a head's width.
    """
    heads, width, size = query.shape
    folded = (key.transpose(1, 2) @ query).flatten(0, 1) * (size / width) ** 0.5
    asked = F.linear(y, folded[:, :-1], folded[:, -1])
    return asked.unflatten(-1, (heads, size)).transpose(1, 2)


def answer(mean: Tensor, value: Tensor, output: nn.Linear) -> Tensor:
    """Outputs (b, rows, d) from weighted sums (b, heads, rows, d + 1) of unprojected values.

    value: `of_heads`.
    """
    weight = output.weight.unflatten(1, (len(value), -1)).transpose(0, 1)
    folded = (weight @ value).transpose(0, 1).flatten(1)
    return F.linear(mean.transpose(1, 2).flatten(2), folded, output.bias)
