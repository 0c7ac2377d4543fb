"""The three-kernel covariance of the logits and the data part of their shape.

K = r1 k_c + r2 k_i + r3 k_u over the keys of one sequence, a correlation matrix for every input:
k_c is a Gram matrix of normalised user-incidence vectors, k_i and k_u are exp of a Gram matrix.
The mixture and the use of co-occurrence in the shape are the paper's (Ji et al., AAAI 2020); the
normalisation of k_c and the exponential form of k_i and k_u are ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_matrix(x: Tensor) -> Tensor:
    """cos(x_i, x_j) of the rows of x (..., n, d): (..., n, n), unit diagonal, 0 for zero rows.

    Norms come from the diagonal of the one Gram matrix, so the result stays positive
    semi-definite however the product was rounded (tf32, bfloat16).
    """
    gram = x @ x.mT
    square = gram.diagonal(dim1=-2, dim2=-1)
    # where() on both sides keeps 0/0 out of the forward and out of the gradient.
    inverse = torch.where(square > 0, square, 1).rsqrt() * (square > 0)
    return with_unit_diagonal(gram * inverse[..., :, None] * inverse[..., None, :])


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


def correlation(
    features: Tensor,
    concentration: Tensor,
    mixture: Tensor,
    gate: Tensor | None,
    cooccurrence: Tensor | None,
    padding: Tensor | None,
    jitter: float,
) -> Tensor:
    """K of shape (batch, keys, keys): positive definite with unit diagonal.

    features (batch, keys, width), concentration (2,) = (gamma_i, gamma_u), mixture (batch or 1, 3)
    = weights of (k_c, k_i, k_u) with zero for the missing ones, gate (batch, width), cooccurrence
    (batch, keys, keys), padding (batch, keys) True where a key does not exist. Such a key is made
    independent of all others, so that nothing of it enters the factor of K.
    """
    r = mixture[:, :, None, None]
    k = r[:, 1] * cosine_kernel(features, concentration[0])
    if cooccurrence is not None:
        k = k + r[:, 0] * counting_kernel(cooccurrence)
    if gate is not None:
        k = k + r[:, 2] * cosine_kernel(features * gate[:, None, :], concentration[1])
    if padding is not None:
        k = k.masked_fill(padding[:, :, None] | padding[:, None, :], 0.0)
    return with_unit_diagonal(k / (1.0 + jitter))


def correlation_backward(
    grad: Tensor,
    features: Tensor,
    concentration: Tensor,
    mixture: Tensor,
    gate: Tensor | None,
    cooccurrence: Tensor | None,
    padding: Tensor | None,
    jitter: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of (features, concentration, mixture, gate) from that of K (batch, keys, keys)."""
    grad = without_diagonal(grad) / (1.0 + jitter)
    if padding is not None:
        grad = grad.masked_fill(padding[:, :, None] | padding[:, None, :], 0.0)
    r = mixture[:, :, None, None]
    d_mixture = [grad.new_zeros(grad.shape[0])] * 3
    if cooccurrence is not None:
        d_mixture[0] = (grad * counting_kernel(cooccurrence)).sum((-2, -1))
    d_features, d_gamma_i, d_mixture[1] = _cosine_kernel_backward(
        grad, r[:, 1], features, concentration[0]
    )
    d_gamma_u, d_gate = torch.zeros_like(d_gamma_i), None
    if gate is not None:
        d_gated, d_gamma_u, d_mixture[2] = _cosine_kernel_backward(
            grad, r[:, 2], features * gate[:, None, :], concentration[1]
        )
        d_features = d_features + d_gated * gate[:, None, :]
        d_gate = (d_gated * features).sum(-2)
    d_mixture = torch.stack(d_mixture, dim=-1)
    if mixture.shape[0] == 1:
        d_mixture = d_mixture.sum(0, keepdim=True)
    return d_features, torch.stack((d_gamma_i, d_gamma_u)), d_mixture, d_gate


def _cosine_kernel_backward(
    grad: Tensor, weight: Tensor, x: Tensor, concentration: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, gamma, weight) for weight * cosine_kernel(x, gamma), off its diagonal."""
    gram = x @ x.mT
    square = gram.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(square > 0, square, 1).rsqrt() * (square > 0)
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


def cholesky(k: Tensor) -> Tensor:
    """Lower factor of k (..., n, n); NaN where k is not finite or not positive definite.

    A matrix that cannot be factored shows as NaN in the loss and does not stop the device.
    """
    factor, info = torch.linalg.cholesky_ex(k)
    return torch.where((info == 0)[..., None, None], factor, torch.nan)


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
