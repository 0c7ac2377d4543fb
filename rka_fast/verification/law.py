"""Draws against the law they claim: SciPy's skew-normal, and the moments of Azzalini's."""

# The kernels of these calls are whole.
# pyright: reportArgumentType=false

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.arguments import Relations
from rka_fast.ops.groups import Covariance, Kernels, Location, Shape
from rka_fast.ops.reference import covariance

KEYS, WIDTH = 5, 4
DRAWS = 40_000
LEAST_P = 1e-5  # of a Kolmogorov-Smirnov test: four of them for each law
STANDARD_ERRORS = {"mean": 5.0, "covariance": 7.0}  # a covariance's own is that of normal draws


class Finding(NamedTuple):
    """A statistic and the bound it keeps or breaks: p-values from below, others from above."""

    name: str
    value: float
    bound: float

    @property
    def kept(self) -> bool:
        return self.value >= self.bound if self.name == "p-value" else self.value <= self.bound


class Law(NamedTuple):
    """The last row of one sequence: xi, omega, K and delta, in float64."""

    xi: Tensor
    omega: Tensor
    correlation: Tensor
    delta: Tensor


def inputs(seed: int, times: int, dtype: torch.dtype, device: str) -> dict:
    """One random sequence `times` times over: draws differ by the sequence they belong to."""
    rng = torch.Generator().manual_seed(seed)

    def new(*shape: int) -> Tensor:
        x = torch.randn(1, *shape, generator=rng, dtype=torch.float64)
        return x.to(dtype).to(device).expand(times, *shape)

    def pair(scale: float) -> tuple[Tensor, Tensor]:
        return scale * new(1, KEYS, WIDTH), new(1, KEYS, WIDTH)

    incidence = torch.randint(0, 2, (1, 9, KEYS), generator=rng).to(dtype).to(device)
    kernels = Kernels(
        new(KEYS, 6),
        torch.tensor([1.7, 0.6], dtype=dtype, device=device),
        torch.tensor([[0.4, 0.3, 0.3]], dtype=dtype, device=device),
        new(6),
        (incidence.mT @ incidence).expand(times, -1, -1),
    )
    return {
        "location": Location(*pair(0.3)),
        "value": torch.eye(KEYS, dtype=dtype, device=device).expand(times, 1, -1, -1),
        "covariance": Covariance(*pair(1.0), kernels, torch.zeros(1, dtype=dtype, device=device)),
        "shape": Shape(*pair(3.0)),
    }


def theory(x: dict, jitter: float = 1e-4) -> Law:
    """The law of the last row of the first sequence."""

    def score(query: Tensor, key: Tensor) -> Tensor:
        return query[0, 0, -1].double().cpu() @ key[0, 0].double().cpu().T / math.sqrt(WIDTH)

    kernels = Kernels(*(t[:1].double().cpu() for t in x["covariance"].kernels))
    kernels = kernels._replace(concentration=x["covariance"].kernels.concentration.double().cpu())
    k = covariance.correlation(Relations(*kernels[:5], jitter=jitter))[0]
    everything = torch.ones(1, 1, KEYS, KEYS, dtype=torch.bool)
    prior = covariance.shape_prior(kernels.cooccurrence, everything)[0, 0, -1]
    alpha = torch.nn.functional.leaky_relu(score(*x["shape"])) * prior
    return Law(
        torch.nn.functional.leaky_relu(score(*x["location"][:2])),
        torch.nn.functional.softplus(score(*x["covariance"][:2])),
        k,
        k @ alpha / (1 + alpha @ k @ alpha).sqrt(),
    )


def contrasts(law: Law) -> tuple[Tensor, Tensor, Tensor]:
    """Location, matrix of the scales and delta of Z_j - Z_0, which the weights' logs show."""
    a = torch.cat((-torch.ones(KEYS - 1, 1), torch.eye(KEYS - 1)), 1).double()
    b = a * law.omega
    return a @ law.xi, b @ law.correlation @ b.T, b @ law.delta


def check(
    backend: str,
    seed: int,
    draws: int = DRAWS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Finding]:
    """Marginals, means and covariances of the logits' contrasts over so many draws."""
    import scipy.stats  # a second to import

    x = inputs(seed, draws, dtype, device)
    weights = kernelized_attention(
        **x, is_causal=True, seed=seed, check_counts=False, backend=backend
    )
    weights = weights[:, 0, -1].double().cpu()
    seen = (weights.log() - weights[:, :1].log())[:, 1:]
    xi, scales, delta = contrasts(theory(x))
    mean = xi + math.sqrt(2 / math.pi) * delta
    spread = scales - 2 / math.pi * torch.outer(delta, delta)
    found = []
    for j, scale in enumerate(scales.diagonal().sqrt()):
        slope = delta[j] / scale
        shape = slope / (1 - slope**2).sqrt()
        law = scipy.stats.skewnorm(shape.item(), xi[j].item(), scale.item())
        p = scipy.stats.kstest(seen[:, j].numpy(), law.cdf).pvalue
        found.append(Finding("p-value", float(p), LEAST_P))
    error = (seen.mean(0) - mean).abs() / (spread.diagonal() / draws).sqrt()
    found.append(Finding("mean", error.max().item(), STANDARD_ERRORS["mean"]))
    variances = torch.outer(spread.diagonal(), spread.diagonal())
    error = (torch.cov(seen.T) - spread).abs() / ((variances + spread**2) / draws).sqrt()
    found.append(Finding("covariance", error.max().item(), STANDARD_ERRORS["covariance"]))
    return found
