"""Draws against scipy's skew-normal and the moments of Azzalini's distribution."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support import cases, literal

from rka_fast import Location
from rka_fast.ops.reference import covariance, philox, skew_normal
from rka_fast.ops.triton import interpreted

DRAWS = 40_000
N = 5


def one_law(seed=0):
    """Inputs of one row whose draws differ only by the sequence they belong to."""
    x = cases.random_inputs(batch=1, heads=1, n=N, seed=seed)
    x = cases.replace(
        x, {"shape.query": 3 * x["shape"].query, "location.query": 0.3 * x["location"].query}
    )
    return {
        "location": Location(*x["location"][:2]),
        "covariance": x["covariance"],
        "shape": x["shape"],
        "value": torch.eye(N, dtype=torch.float64)[None, None],
    }


def repeated(x, times):
    def visit(t):
        if isinstance(t, tuple):
            return type(t)(*(visit(y) for y in t))
        if t is None or t.dim() < 2:
            return t
        return t.expand(times, *t.shape[1:])

    return {name: visit(t) for name, t in x.items()}


def theory(x):
    """xi, omega, K and delta of the last row, in float64."""
    q, k = x["location"][:2]
    xi = torch.nn.functional.leaky_relu(q[0, 0, -1] @ k[0, 0].T / 2)
    c = x["covariance"]
    omega = torch.nn.functional.softplus(c.query[0, 0, -1] @ c.key[0, 0].T / 2 + c.bias[0])
    kernels = c.kernels
    r = kernels.mixture / kernels.mixture.sum(-1, keepdim=True)
    correlation = covariance.correlation(
        kernels.features, kernels.concentration, r, kernels.gate, kernels.cooccurrence, None, 1e-4
    )[0]
    alpha = torch.nn.functional.leaky_relu(x["shape"].query[0, 0, -1] @ x["shape"].key[0, 0].T / 2)
    alpha = alpha * torch.from_numpy(
        literal.prior(kernels.cooccurrence[0].numpy(), N - 1, range(N))
    )
    delta = correlation @ alpha / (1 + alpha @ correlation @ alpha).sqrt()
    return xi, omega, correlation, delta


many_draws = pytest.mark.skipif(
    interpreted(),
    reason="40,000 sequences take hours to interpret; their noise is tested",
)


@many_draws
@pytest.mark.parametrize("seed", [0, 1])
def test_log_ratios_of_weights_are_skew_normal(backend, seed):
    """A contrast of skew-normal logits is skew-normal, and weights show every contrast."""
    x = one_law(seed)
    weights = backend(**repeated(x, DRAWS), is_causal=True, seed=11 + seed)[:, 0, -1]
    contrast = (weights.log() - weights[:, :1].log())[:, 1:]
    xi, omega, k, delta = theory(x)
    a = torch.cat((-torch.ones(N - 1, 1), torch.eye(N - 1)), 1).double()
    b = a * omega
    mean = a @ xi + math.sqrt(2 / math.pi) * b @ delta
    cov = b @ (k - 2 / math.pi * torch.outer(delta, delta)) @ b.T
    scale = (b @ k @ b.T).diagonal().sqrt()
    skew = b @ delta / scale
    for j in range(N - 1):
        law = scipy.stats.skewnorm(
            (skew[j] / (1 - skew[j] ** 2).sqrt()).item(), (a @ xi)[j].item(), scale[j].item()
        )
        assert scipy.stats.kstest(contrast[:, j].numpy(), law.cdf).pvalue > 1e-3
    # Five standard errors of each estimate.
    assert ((contrast.mean(0) - mean).abs() < 5 * (cov.diagonal() / DRAWS).sqrt()).all()
    spread = (torch.outer(cov.diagonal(), cov.diagonal()) + cov**2).sqrt()
    assert ((torch.cov(contrast.T) - cov).abs() < 7 * spread / DRAWS**0.5).all()


def test_the_law_is_skewed_enough_to_matter():
    """The test above would pass for normal logits if alpha were negligible: it is not."""
    assert theory(one_law(0))[3].abs().max() > 0.3


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
        law = scipy.stats.skewnorm((delta[j] / (1 - delta[j] ** 2).sqrt()).item())
        assert scipy.stats.kstest(draws[:, j].numpy(), law.cdf).pvalue > 1e-3
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


@many_draws
def test_without_a_shape_the_logits_are_normal(backend):
    x = one_law()
    del x["shape"]
    weights = backend(**repeated(x, DRAWS), is_causal=True, seed=3)[:, 0, -1]
    contrast = (weights[:, 1] / weights[:, 0]).log()
    xi, omega, k, _ = theory(one_law())
    b = torch.tensor([-1.0, 1.0]).double() * omega[:2]
    law = scipy.stats.norm((xi[1] - xi[0]).item(), (b @ k[:2, :2] @ b).sqrt().item())
    assert scipy.stats.kstest(contrast.numpy(), law.cdf).pvalue > 1e-3
