"""Ready-made K, L and prior: what many calls with the same relations share."""

# The tensors of a call made by `Relations.as_call` are there.
# pyright: reportArgumentType=false

from typing import Any

import torch
from torch import Tensor

from rka_fast.ops.arguments import Relations
from rka_fast.ops.reference import covariance
from rka_fast.ops.reference.attention import allowed_pairs, correlation_of, like, prepare


def relations(r: Relations) -> tuple[Tensor, Tensor, Tensor]:
    """K and L (batch, keys, keys), prior (batch, heads or 1, keys, keys), or (0,) without counts.

    Differentiable by autograd as it stands.
    """
    a = prepare(r.as_call())
    correlation = correlation_of(a)
    factor = covariance.cholesky(correlation, a.jitter)
    if a.cooccurrence is None:
        return correlation, factor, correlation.new_zeros(0)
    return correlation, factor, covariance.shape_prior(a.cooccurrence, allowed_pairs(a))


def relations_backward(
    d_correlation: Tensor | None, d_factor: Tensor | None, needs: list[int], r: Relations
) -> list[Tensor]:
    """Gradients of the fields at the positions `needs`, in their dtypes."""
    a = prepare(r.as_call())
    total = torch.zeros(())
    if d_correlation is not None:
        total = d_correlation.to(a.features.dtype)
    if d_factor is not None:
        factor = covariance.cholesky(correlation_of(a), a.jitter)
        total = total + covariance.cholesky_backward(d_factor.to(factor.dtype), factor)
    given: Any = r
    if d_correlation is None and d_factor is None:
        return [like(None, given[i]) for i in needs]
    grads = covariance.correlation_backward(total, Relations.of(a))
    return [like(grads[i], given[i]) for i in needs]
