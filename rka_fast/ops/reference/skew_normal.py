"""Multivariate skew-normal logits from one Cholesky factor per sequence.

Row t of S is skew-normal (0, K, alpha_t) in Azzalini's parametrisation. With X_t = L eps_t and a
standard normal h_t whose covariance with X_t is delta_t, S_t = X_t - 2 delta_t min(h_t, 0) equals
(X_t - delta_t h_t) + delta_t |h_t|: an independent normal plus delta times a half-normal, which is
Azzalini's additive representation (Azzalini and Dalla Valle, Biometrika 1996).
"""

import math

from torch import Tensor


def skewness(shape: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
    """delta_t = K alpha_t / sqrt(1 + q_t) and 1 / sqrt(1 + q_t), where q_t = alpha_t' K alpha_t.

    shape (batch, heads, rows, keys), correlation (batch, 1, keys, keys).
    """
    p = shape @ correlation
    q = (shape * p).sum(-1, keepdim=True)
    inverse = (1.0 + q).rsqrt()
    return p * inverse, inverse


def sample(
    shape: Tensor, correlation: Tensor, factor: Tensor, noise: Tensor, skew_noise: Tensor
) -> Tensor:
    """S (batch, heads, rows, keys) from E `noise` (same shape) and T `skew_noise` (.., rows, 1)."""
    delta, inverse = skewness(shape, correlation)
    x = noise @ factor.mT
    h = ((shape * x).sum(-1, keepdim=True) + skew_noise) * inverse
    return x - 2.0 * delta * h.clamp_max(0.0)


def sample_backward(
    grad: Tensor, shape: Tensor, correlation: Tensor, factor: Tensor, noise: Tensor, skew_noise
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (shape, correlation, factor) from that of S; not yet summed over heads."""
    delta, inverse = skewness(shape, correlation)
    x = noise @ factor.mT
    projection = (shape * x).sum(-1, keepdim=True) + skew_noise
    h = projection * inverse
    d_delta = -2.0 * h.clamp_max(0.0) * grad
    d_h = -2.0 * (grad * delta).sum(-1, keepdim=True) * (h < 0)
    d_x = grad + d_h * inverse * shape
    d_shape = d_h * inverse * x
    d_inverse = d_h * projection
    d_shape_k, d_correlation = _skewness_backward(d_delta, d_inverse, shape, correlation)
    return d_shape + d_shape_k, d_correlation, d_x.mT @ noise


def _skewness_backward(
    d_delta: Tensor, d_inverse: Tensor | float, shape: Tensor, correlation: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of (shape, correlation) from those of delta and 1 / sqrt(1 + q)."""
    p = shape @ correlation
    inverse = (1.0 + (shape * p).sum(-1, keepdim=True)).rsqrt()
    d_q = -0.5 * inverse**3 * (d_inverse + (d_delta * p).sum(-1, keepdim=True))
    d_p = inverse * d_delta + d_q * shape
    return d_q * p + d_p @ correlation, shape.mT @ d_p


def mean(shape: Tensor, correlation: Tensor) -> Tensor:
    """The exact mean of S: delta sqrt(2 / pi)."""
    return skewness(shape, correlation)[0] * math.sqrt(2.0 / math.pi)


def mean_backward(grad: Tensor, shape: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (shape, correlation) from that of `mean`; not yet summed over heads."""
    return _skewness_backward(grad * math.sqrt(2.0 / math.pi), 0.0, shape, correlation)
