"""The three-kernel covariance of the logits and the data part of their shape.

K = r1 k_c + r2 k_i + r3 k_u over the keys of one sequence, a correlation matrix for every input:
k_c is a Gram matrix of normalised user-incidence vectors, k_i and k_u are exp of a Gram matrix.
The mixture and the use of co-occurrence in the shape are the paper's (Ji et al., AAAI 2020); the
normalisation of k_c and the exponential form of k_i and k_u are ours.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rka_fast.ops.arguments import Relations
from rka_fast.ops.tracing import is_traced


def cosine_matrix(x: Tensor) -> Tensor:
    """cos(x_i, x_j) of the rows of x (..., n, d): (..., n, n), unit diagonal, 0 for zero rows.

    Norms come from the diagonal of the one Gram matrix, so the result stays positive
    semi-definite however the product was rounded (tf32, bfloat16).
    """
    gram, inverse = gram_and_norms(x)
    return with_unit_diagonal(gram * inverse[..., :, None] * inverse[..., None, :])


def gram_and_norms(x: Tensor) -> tuple[Tensor, Tensor]:
    """x x' and 1 / |x_i| from its diagonal, 0 for zero rows."""
    gram = x @ x.mT
    square = gram.diagonal(dim1=-2, dim2=-1)
    # where() on both sides keeps 0/0 out of the forward and out of the gradient.
    return gram, torch.where(square > 0, square, 1).rsqrt() * (square > 0)


def with_unit_diagonal(k: Tensor) -> Tensor:
    """k with its diagonal replaced by exact ones (no gradient flows through the diagonal)."""
    return _with_diagonal(k, 1.0)


def counting_kernel(cooccurrence: Tensor) -> Tensor:
    """k_c = c_ij / sqrt(c_ii c_jj) from counts (..., n, n); an item without users keeps a 1."""
    support = cooccurrence.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(support > 0, support, 1).rsqrt() * (support > 0)
    return with_unit_diagonal(cooccurrence * inverse[..., :, None] * inverse[..., None, :])


def cosine_kernel(x: Tensor, concentration: Tensor) -> Tensor:
    """exp(2 gamma (cos(x_i, x_j) - 1)), the item kernel (and, on gated rows, the user kernel)."""
    return torch.exp(2.0 * concentration * (cosine_matrix(x) - 1.0))


def correlation(a: Relations) -> Tensor:
    """K of shape (batch, keys, keys): positive definite with unit diagonal.

    mixture holds the weights of (k_c, k_i, k_u), zero for the missing ones, concentration
    (gamma_i, gamma_u). A key that does not exist is made independent of all others, so that
    nothing of it enters the factor of K.
    """
    r = a.mixture[:, :, None, None]
    k = r[:, 1] * cosine_kernel(a.features, a.concentration[0])
    if a.cooccurrence is not None:
        k = k + r[:, 0] * counting_kernel(a.cooccurrence)
    if a.gate is not None:
        k = k + r[:, 2] * cosine_kernel(a.features * a.gate[:, None, :], a.concentration[1])
    if a.padding is not None:
        k = k.masked_fill(a.padding[:, :, None] | a.padding[:, None, :], 0.0)
    return with_unit_diagonal(k / (1.0 + a.jitter))


def correlation_backward(
    grad: Tensor, a: Relations
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of (features, concentration, mixture, gate) from that of K (batch, keys, keys)."""
    grad = without_diagonal(grad) / (1.0 + a.jitter)
    if a.padding is not None:
        grad = grad.masked_fill(a.padding[:, :, None] | a.padding[:, None, :], 0.0)
    r = a.mixture[:, :, None, None]
    d_mixture = [grad.new_zeros(grad.shape[0])] * 3
    if a.cooccurrence is not None:
        d_mixture[0] = (grad * counting_kernel(a.cooccurrence)).sum((-2, -1))
    d_features, d_gamma_i, d_mixture[1] = _cosine_kernel_backward(
        grad, r[:, 1], a.features, a.concentration[0]
    )
    d_gamma_u, d_gate = torch.zeros_like(d_gamma_i), None
    if a.gate is not None:
        d_gated, d_gamma_u, d_mixture[2] = _cosine_kernel_backward(
            grad, r[:, 2], a.features * a.gate[:, None, :], a.concentration[1]
        )
        d_features = d_features + d_gated * a.gate[:, None, :]
        d_gate = (d_gated * a.features).sum(-2)
    d_mixture = torch.stack(d_mixture, dim=-1)
    if a.mixture.shape[0] == 1:
        d_mixture = d_mixture.sum(0, keepdim=True)
    return d_features, torch.stack((d_gamma_i, d_gamma_u)), d_mixture, d_gate


def _cosine_kernel_backward(
    grad: Tensor, weight: Tensor, x: Tensor, concentration: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, gamma, weight) for weight * cosine_kernel(x, gamma), off its diagonal."""
    gram, inverse = gram_and_norms(x)
    outer = inverse[..., :, None] * inverse[..., None, :]
    cosine = gram * outer
    weighted = grad * torch.exp(2.0 * concentration * (cosine - 1.0))
    d_cosine = weighted * weight * (2.0 * concentration)
    d_gamma = (weighted * weight * 2.0 * (cosine - 1.0)).sum()
    d_cosine = d_cosine + d_cosine.mT
    # cos_ij = G_ij / sqrt(G_ii G_jj): the norms pull x_i back along itself.
    d_gram = d_cosine * outer - torch.diag_embed((d_cosine * cosine).sum(-1) * inverse**2)
    return d_gram @ x, d_gamma, weighted.sum((-2, -1))


def without_diagonal(k: Tensor) -> Tensor:
    """k with zeros on its diagonal."""
    return _with_diagonal(k, 0.0)


def _with_diagonal(k: Tensor, value: float) -> Tensor:
    identity = torch.eye(k.shape[-1], dtype=torch.bool, device=k.device)
    return k.masked_fill(identity, value)


def cholesky(k: Tensor, jitter: float) -> Tensor:
    """Lower factor of k (..., n, n), a correlation matrix to which `jitter` was added; NaN for NaN.

    Where rounding has left a pivot at 0 or below, it becomes jitter / (1 + jitter), which exact
    arithmetic never falls below, and the column ends there: what stands under it is rounding too,
    and to divide it by so small a pivot would let it grow from column to column without bound.
    Rows before it notice nothing, so that no later token moves an earlier one.
    """
    factor, info = torch.linalg.cholesky_ex(k)
    if is_traced():  # values decide nothing
        return torch.where((info == 0)[..., None, None], factor, torch.nan)
    if not info.any():
        return factor
    return _Completed.apply(k, jitter)


def grown(factor: Tensor | None, k: Tensor, jitter: float) -> Tensor:
    """The factor of k (..., n, n) from that of its first rows: O(n^2) for each row that is new."""
    if factor is None:
        return cholesky(k, jitter)
    done = factor.shape[-1]
    below = torch.linalg.solve_triangular(factor, k[..., :done, done:], upper=False).mT
    set_pivot = torch.tensor(jitter / (1.0 + jitter), dtype=k.dtype).sqrt()
    ended = factor.diagonal(dim1=-2, dim2=-1) == set_pivot.to(k.device)
    below = below.masked_fill(ended[..., None, :], 0.0)
    corner = cholesky(k[..., done:, done:] - below @ below.mT, jitter)
    above = torch.nn.functional.pad(factor, (0, k.shape[-1] - done))
    return torch.cat((above, torch.cat((below, corner), -1)), -2)


class _Completed(torch.autograd.Function):
    """The factor where some pivots were set; what that adds to k is taken as a constant."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, jitter: float) -> Tensor:
        flat = k.reshape(-1, *k.shape[-2:])
        factor = torch.stack([_completed(x, jitter) for x in flat]).view_as(k)
        ctx.save_for_backward(factor)
        return factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return cholesky_backward(grad, *ctx.saved_tensors), None


def _completed(k: Tensor, jitter: float) -> Tensor:
    """The factor of one matrix: what can be factored in one go, a set pivot, the rest likewise."""
    factor, rest, r = torch.zeros_like(k), k, 0
    set_pivot = torch.tensor(jitter / (1.0 + jitter), dtype=k.dtype).sqrt()
    while len(rest):
        lower, info = torch.linalg.cholesky_ex(rest)
        good = int(info) - 1 if info else len(rest)
        lower, after = lower[:good, :good], r + good
        factor[r:after, r:after] = lower
        below = torch.linalg.solve_triangular(lower, rest[good:, :good].mT, upper=False).mT
        factor[after:, r:after] = below
        rest = rest[good:, good:] - below @ below.mT
        if len(rest):
            if rest[0, 0].isnan():
                return factor.fill_(torch.nan)
            factor[after, after] = set_pivot
        rest, r = rest[1:, 1:], after + 1
    return factor


def cholesky_backward(grad: Tensor, factor: Tensor) -> Tensor:
    """Gradient of K from that of its lower factor: sym(L^-T Phi(L' dL) L^-1).

    Phi keeps the lower triangle and halves the diagonal (Murray, arXiv 1602.07527).
    """
    phi = (factor.mT @ grad.tril()).tril()
    phi = phi - 0.5 * torch.diag_embed(phi.diagonal(dim1=-2, dim2=-1))
    half = torch.linalg.solve_triangular(factor.mT, phi, upper=True)
    full = torch.linalg.solve_triangular(factor, half, upper=False, left=False)
    return 0.5 * (full + full.mT)


def shape_prior(cooccurrence: Tensor, allowed: Tensor, row_offset: int = 0) -> Tensor:
    """alpha-hat / max alpha-hat, the data part of the shape: (batch, heads or 1, rows, keys).

    alpha-hat_tj = sum over allowed k of c_jk c_kt, where c_kk is the mean of the allowed
    off-diagonal c_kl (paper). Rows whose maximum is 0 are 0 (ours). `cooccurrence` is
    (batch, keys, keys), `allowed` (batch, heads or 1, rows, keys) bool; row t is key
    t + row_offset. Data only, hence no gradient.
    """
    own_key = {"offset": row_offset, "dim1": -2, "dim2": -1}
    with torch.no_grad():
        counts = without_diagonal(cooccurrence).unsqueeze(1)
        m = allowed.to(counts.dtype)
        rows, keys = m.shape[-2:]
        of_row = counts[..., row_offset : row_offset + rows, :]
        self_allowed = m.diagonal(**own_key)[..., None]
        # mean_tk: what stands for c_kk in row t.
        mean = (m @ counts) / (m.sum(-1, keepdim=True) - 1.0).clamp_min(1.0)
        own = mean.diagonal(**own_key)[..., None] * self_allowed
        on_diagonal = torch.diag_embed(own[..., 0] ** 2, **own_key)[..., :rows, :]
        on_diagonal = F.pad(on_diagonal, (0, keys - on_diagonal.shape[-1]))
        prior = ((m * of_row) @ counts + of_row * (mean + own) + on_diagonal) * m
        largest = prior.amax(-1, keepdim=True)
        return prior / torch.where(largest > 0, largest, 1.0)
