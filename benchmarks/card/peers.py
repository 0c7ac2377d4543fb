"""Other ways to the same result: each makes a function of the arguments, or says why it cannot."""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rka_fast.ops.arguments import Arguments, Relations
from rka_fast.ops.reference import attention as reference
from rka_fast.ops.reference import covariance, philox, skew_normal

Peer = Callable[[Arguments], Tensor] | str


def eager_randn(a: Arguments) -> Peer:
    """The reference by autograd, with PyTorch's generator in place of Philox in PyTorch."""

    def function(a: Arguments) -> Tensor:
        kept = philox.normals
        philox.normals = lambda seed, b, h, rows, columns, dtype, *_: torch.randn(
            b, h, len(rows), columns, dtype=dtype, device=seed.device
        )
        try:
            return reference.attention(a)
        finally:
            philox.normals = kept

    return function


def compiled(a: Arguments) -> Peer:
    """The reference by autograd, compiled."""
    if os.environ.get("CARD_SIZE") == "dry":
        return "a minute to compile, left out of a dry run"
    return torch.compile(reference.attention, dynamic=False)


def flex(a: Arguments) -> Peer:
    """FlexAttention with the spread of the logits made by eager PyTorch; kernels by autograd."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if a.query.device.type != "cuda":
        return "FlexAttention has no gradients on the CPU"
    rows, keys = a.query.shape[2], a.key.shape[2]
    block = create_block_mask(lambda b, h, i, j: i >= j, None, None, rows, keys, device="cuda")
    call = torch.compile(flex_attention, dynamic=False)

    def function(a: Arguments) -> Tensor:
        spread = spread_of_logits(a)

        def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return torch.where(s > 0, s, 0.01 * s) + spread[b, h, i, j]

        return call(a.query, a.key, a.value, score_mod=score, block_mask=block)

    return function


def spread_of_logits(a: Arguments) -> Tensor:
    """omega S of every pair (B, H, n, m), one draw, from PyTorch's generator; causal."""
    scale = reference.scores(a.scale_query, a.scale_key) + a.scale_bias[:, None, None]
    k = covariance.correlation(Relations.of(a)).unsqueeze(1)
    factor = torch.linalg.cholesky(k)
    allowed = torch.ones(1, 1, *scale.shape[2:], dtype=torch.bool, device=k.device).tril()
    prior = covariance.shape_prior(a.cooccurrence, allowed)
    alpha = F.leaky_relu(reference.scores(a.shape_query, a.shape_key)) * prior
    skew = skew_normal.skewness(alpha, k)
    draw = skew_normal.sample(
        alpha, skew, factor, torch.randn_like(scale), torch.randn_like(scale[..., :1])
    )
    return F.softplus(scale) * draw.deviates


def sdpa(a: Arguments) -> Peer:
    """Plain attention of the same shape, the yardstick."""
    return lambda a: F.scaled_dot_product_attention(a.query, a.key, a.value, is_causal=True)


PEERS: dict[str, Callable[[Arguments], Peer]] = {
    "sdpa": sdpa,
    "eager, torch.randn": eager_randn,
    "eager by autograd": lambda a: reference.attention,
    "FlexAttention + eager spread": flex,
    "torch.compile": compiled,
}
