"""Draws against scipy's skew-normal and the moments of Azzalini's distribution."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support import literal

from rka_fast.ops.reference import covariance, philox, skew_normal
from rka_fast.verification import bounds, law

DRAWS = 40_000
N = law.KEYS


@pytest.mark.parametrize("seed", [0, 1])
def test_log_ratios_of_weights_are_skew_normal(backend, seed):
    """A contrast of skew-normal logits is skew-normal, and weights show every contrast."""
    backend.needs_speed("40,000 sequences")
    found = law.check(backend.name, seed, DRAWS, backend.device, backend.dtype)
    assert all(f.kept for f in found), found


def test_the_law_is_that_of_the_literal_evaluation():
    """K and delta of which the test above makes the law."""
    x = law.inputs(0, 1, torch.float64, "cpu")
    counts, present = x["covariance"].kernels.cooccurrence.numpy(), np.ones(N, bool)
    named = {name: leaf.numpy() for name, leaf in bounds.leaves(x).items()}
    k = literal.correlation(named, counts, 0, present, 1e-4)
    alpha = x["shape"].query[0, 0, -1] @ x["shape"].key[0, 0].T / 2
    alpha = np.where(alpha > 0, alpha, 0.01 * alpha) * literal.prior(counts[0], N - 1, range(N))
    actual = law.theory(x)
    np.testing.assert_allclose(actual.correlation, k, rtol=0, atol=1e-14)
    np.testing.assert_allclose(actual.delta, k @ alpha / (1 + alpha @ k @ alpha) ** 0.5)


def test_joint_moments_and_marginals_of_the_standard_logits():
    rng = torch.Generator().manual_seed(2)
    a = torch.randn(4, 8, generator=rng, dtype=torch.float64)
    k = torch.corrcoef(a)
    alpha = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64).expand(1, 1, DRAWS, 4)
    seed = torch.tensor(4)
    noise = philox.normals(seed, 1, 1, range(DRAWS), 4, torch.float64)
    skew_noise = philox.skew_noise(seed, 1, 1, range(DRAWS), torch.float64)
    skew = skew_normal.skewness(alpha, k[None, None])
    draws = skew_normal.sample(
        alpha, skew, covariance.cholesky(k, 1e-4)[None, None], noise, skew_noise
    ).deviates[0, 0]
    delta = skew.delta[0, 0, 0]
    covariance_ = k - 2 / math.pi * torch.outer(delta, delta)
    assert ((draws.mean(0) - delta * math.sqrt(2 / math.pi)).abs() < 5 / DRAWS**0.5).all()
    assert ((torch.cov(draws.T) - covariance_).abs() < 8 / DRAWS**0.5).all()
    for j in range(4):
        marginal = scipy.stats.skewnorm((delta[j] / (1 - delta[j] ** 2).sqrt()).item())
        assert scipy.stats.kstest(draws[:, j].numpy(), marginal.cdf).pvalue > 1e-3
    torch.testing.assert_close(
        skew_normal.mean(skew)[0, 0, 0], delta * math.sqrt(2 / math.pi), rtol=0, atol=1e-15
    )


def test_the_sign_representation_has_the_same_law():
    """Azzalini's other construction: X where alpha'X + T > 0, else -X."""
    rng = np.random.default_rng(0)
    k = np.array([[1.0, 0.6], [0.6, 1.0]])
    alpha = np.array([2.0, -0.7])
    x = rng.multivariate_normal(np.zeros(2), k, DRAWS)
    sign = np.where(x @ alpha + rng.standard_normal(DRAWS) > 0, 1.0, -1.0)
    expected = x * sign[:, None]
    shape = torch.from_numpy(alpha).expand(1, 1, DRAWS, 2)
    correlation = torch.from_numpy(k)[None, None]
    skew = skew_normal.skewness(shape, correlation)
    draws = skew_normal.sample(
        shape,
        skew,
        torch.linalg.cholesky(correlation),
        torch.from_numpy(rng.standard_normal((1, 1, DRAWS, 2))),
        torch.from_numpy(rng.standard_normal((1, 1, DRAWS, 1))),
    ).deviates[0, 0]
    for direction in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]):
        ours, theirs = draws.numpy() @ direction, expected @ direction
        assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_without_a_shape_the_logits_are_normal(backend):
    backend.needs_speed("40,000 sequences")
    x = law.inputs(0, DRAWS, torch.float64, "cpu")
    xi, omega, k, _ = law.theory(x)
    del x["shape"]
    weights = backend(**x, is_causal=True, seed=3, check_counts=False)[:, 0, -1]
    contrast = (weights[:, 1] / weights[:, 0]).log()
    b = torch.tensor([-1.0, 1.0]).double() * omega[:2]
    normal = scipy.stats.norm((xi[1] - xi[0]).item(), (b @ k[:2, :2] @ b).sqrt().item())
    assert scipy.stats.kstest(contrast.numpy(), normal.cdf).pvalue > 1e-3
