"""The groups that a caller's arguments come in."""

from typing import NamedTuple

from torch import Tensor


class RelativeTimes(NamedTuple):
    """table[h, bucket], bucket = floor(ln(max(1, |rows_t - keys_j|)) / 0.301), at most the last.

    rows (B, n), keys (B, m): int64, in seconds. table (H or 1, 129) float: learned, of each head or
    of all. Buckets are found by whole seconds, so that every backend has the same.
    """

    rows: Tensor
    keys: Tensor
    table: Tensor


class Location(NamedTuple):
    """xi = f(query key' scale) + bias + times, with scale 1 / sqrt(dh) by default.

    query (B, H, n, dh), key (B, H, m, dh), bias float and broadcastable to (B, H, n, m). A key
    whose bias is -inf, or more than 5,000 below the row's largest over the keys that mask, padding
    and causality leave, is hidden, as if `mask` said so: what is written as -1e4, -1e9 or the
    lowest finite number means a mask. A row whose keys all carry such a number hides none.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None = None
    times: RelativeTimes | None = None


class Kernels(NamedTuple):
    """The relations of the keys: K = r1 k_c + r2 k_i + r3 k_u, shared by the heads.

    features (B, m, df): k_i = exp(2 gamma_i (cos(x_i, x_j) - 1)).
    concentration (2,): gamma_i and gamma_u, both positive; default 2.
    mixture (B or 1, 3): weights of (k_c, k_i, k_u), non-negative; the weights of kernels whose
        inputs are missing are dropped and the rest renormalised; default equal.
    gate (B, df): k_u is the item kernel of the features multiplied by the user's gate. A row of
        ones makes k_u equal to k_i up to the concentration.
    cooccurrence (B, m, m): symmetric counts c_ij of users that have both items, diagonal c_ii of
        users that have item i (not zero: X'X of the users-by-items matrix as it is);
        k_c = c_ij / sqrt(c_ii c_jj). It also shapes the skewness.
    """

    features: Tensor
    concentration: Tensor | None = None
    mixture: Tensor | None = None
    gate: Tensor | None = None
    cooccurrence: Tensor | None = None


class RelationFactor(NamedTuple):
    """K, its factor and the prior of the shape, made by `relation_factor` for any number of calls.

    correlation (B, m, m), factor (B, m, m): K and the lower L of K = L L'. Differentiable.
    prior (B, H or 1, n, m), row t that of query t, or None without counts: the data part of the
        shape, which has no gradient.
    """

    correlation: Tensor
    factor: Tensor
    prior: Tensor | None = None


class Covariance(NamedTuple):
    """Sigma_t = diag(omega_t) K diag(omega_t), omega = softplus(query key' / sqrt(dh) + bias).

    query (B, H, n, dh), key (B, H, m, dh), bias (H,). kernels: the relations, or what
    `relation_factor` has made of them under the same masks.
    """

    query: Tensor
    key: Tensor
    kernels: Kernels | RelationFactor
    bias: Tensor | None = None


class Shape(NamedTuple):
    """alpha = f(query key' / sqrt(dh)) times the normalised co-occurrence prior, if there is one.

    query (B, H, n, dh), key (B, H, m, dh).
    """

    query: Tensor
    key: Tensor
