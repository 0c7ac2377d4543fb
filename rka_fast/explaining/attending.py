"""The attentions of SASRec and RKSA from outside: the weights they apply, and their value path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.attention import KernelizedAttention
from rka_fast.models.base import Recommender
from rka_fast.models.relative import Times
from rka_fast.models.sasrec import CausalAttention
from rka_fast.ops.api import Location, kernelized_attention


def attentions(model: Recommender) -> list[nn.Module]:
    """The attention of every block of SASRec or RKSA, in order; none of another model."""
    kinds = (KernelizedAttention, CausalAttention)
    return [module for module in model.modules() if isinstance(module, kinds)]


def draws_logits(model: Recommender) -> bool:
    """Whether there is anything to draw."""
    return any(isinstance(module, KernelizedAttention) for module in attentions(model))


@contextmanager
def watched(
    model: Recommender, replace: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Collects the weights (B, H, n, n) that every attention applies to rows of one length.

    (B, H, 1, n) where an attention is asked for the last position alone.

    replace: of an attention, its input x (B, n, width) and its weights, the output to go on with.
    """
    found: list[Tensor] = []

    def want(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def kernelized(module: nn.Module, args: tuple, output: tuple) -> tuple:
        found.append(output[1])
        return output if replace is None else (replace(module, args[2], output[1]), output[1])

    def plain(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        found.append(_plain_weights(module, *args, **kwargs))
        return output if replace is None else replace(module, args[1], found[-1])

    with ExitStack() as hooks:
        for module in attentions(model):
            if isinstance(module, KernelizedAttention):
                hooks.enter_context(module.register_forward_pre_hook(want, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(kernelized))
            else:
                hooks.enter_context(module.register_forward_hook(plain, with_kwargs=True))
        yield found


def _plain_weights(
    module: Any, query: Tensor, x: Tensor, padding: Tensor, times: Times | None = None
) -> Tensor:
    """The weights (B, H, rows, n) of a `CausalAttention`, which has no need to hold them itself."""
    rows, n = query.shape[1], x.shape[1]
    q, k = (
        _heads(y, module.heads) for y in (module.query(query), module.key_value(x).chunk(2, -1)[0])
    )
    bias, relative = (None, None) if module.relative is None else module.relative(rows, n, times)
    identity = torch.eye(n, dtype=x.dtype, device=x.device).expand(*q.shape[:2], n, n)
    return kernelized_attention(
        Location(q, k, None if bias is None else bias[None, None], relative), identity,
        key_padding_mask=padding, is_causal=True, mode="location", activation="identity",
        row_offset=n - rows,
    )  # fmt: skip


def value_path(module: Any, x: Tensor, weights: Tensor) -> Tensor:
    """What an attention makes of x (B, n, width) by given weights (B, H, n, n): affine in x."""
    if isinstance(module, KernelizedAttention):
        width, bias = module.embed_dim, module.in_proj_bias
        weight, output = module.in_proj_weight, module.out_proj
        values = F.linear(x, weight[2 * width :], None if bias is None else bias[2 * width :])
    else:
        values, output = module.key_value(x).chunk(2, -1)[1], module.output
    attended = weights @ _heads(values, weights.shape[1])
    return output(attended.transpose(1, 2).flatten(2))


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, width) as (B, H, n, width / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
