"""Multivariate skew-normal logits from one Cholesky factor per sequence.

Row t of S is skew-normal (0, K, alpha_t) in Azzalini's parametrisation. With X_t = L eps_t and a
standard normal h_t whose covariance with X_t is delta_t, S_t = X_t - 2 delta_t min(h_t, 0) equals
(X_t - delta_t h_t) + delta_t |h_t|: an independent normal plus delta times a half-normal, which is
Azzalini's additive representation (Azzalini and Dalla Valle, Biometrika 1996).
"""

import math
from typing import NamedTuple

from torch import Tensor

_HALF_NORMAL_MEAN = math.sqrt(2.0 / math.pi)


class Skewness(NamedTuple):
    """p_t = K alpha_t and inverse = 1 / sqrt(1 + alpha_t' K alpha_t); delta = p * inverse."""

    p: Tensor
    inverse: Tensor

    @property
    def delta(self) -> Tensor:
        return self.p * self.inverse


class Draw(NamedTuple):
    """S and what its gradient needs: X, and (alpha_t' X_t + T_t), which is h before scaling."""

    deviates: Tensor
    x: Tensor
    projection: Tensor


def skewness(shape: Tensor, correlation: Tensor) -> Skewness:
    """shape (batch, heads, rows, keys), correlation (batch, 1, keys, keys)."""
    p = shape @ correlation
    q = (shape * p).sum(-1, keepdim=True).clamp_min(0.0)  # below 0 by rounding only
    return Skewness(p, (1.0 + q).rsqrt())


def sample(
    shape: Tensor, skew: Skewness, factor: Tensor, noise: Tensor, skew_noise: Tensor
) -> Draw:
    """S (batch, heads, rows, keys) from E `noise` (same shape) and T `skew_noise` (.., rows, 1)."""
    x = noise @ factor.mT
    projection = (shape * x).sum(-1, keepdim=True) + skew_noise
    h = projection * skew.inverse
    return Draw(x - 2.0 * h.clamp_max(0.0) * skew.delta, x, projection)


def sample_backward(
    grad: Tensor, shape: Tensor, correlation: Tensor, skew: Skewness, noise: Tensor, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (shape, correlation, factor) from that of S; not yet summed over heads."""
    h = draw.projection * skew.inverse
    d_h = -2.0 * (grad * skew.delta).sum(-1, keepdim=True) * (h < 0)
    through_h = d_h * skew.inverse
    d_shape, d_correlation = _skewness_backward(
        -2.0 * h.clamp_max(0.0) * grad, d_h * draw.projection, shape, correlation, skew
    )
    d_x = grad + through_h * shape
    return d_shape + through_h * draw.x, d_correlation, d_x.mT @ noise


def mean(skew: Skewness) -> Tensor:
    """The exact mean of S: delta sqrt(2 / pi)."""
    return skew.delta * _HALF_NORMAL_MEAN


def mean_backward(
    grad: Tensor, shape: Tensor, correlation: Tensor, skew: Skewness
) -> tuple[Tensor, Tensor]:
    """Gradients of (shape, correlation) from that of `mean`; not yet summed over heads."""
    return _skewness_backward(grad * _HALF_NORMAL_MEAN, 0.0, shape, correlation, skew)


def _skewness_backward(
    d_delta: Tensor, d_inverse: Tensor | float, shape: Tensor, correlation: Tensor, skew: Skewness
) -> tuple[Tensor, Tensor]:
    """Gradients of (shape, correlation) from those of delta and of 1 / sqrt(1 + q)."""
    d_inverse = d_inverse + (d_delta * skew.p).sum(-1, keepdim=True)
    d_q = -0.5 * skew.inverse**3 * d_inverse
    d_p = skew.inverse * d_delta + d_q * shape
    return d_q * skew.p + d_p @ correlation, shape.mT @ d_p
