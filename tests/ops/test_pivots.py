"""Pivots that rounding (or counts that are no Gram matrix) leaves at zero or below are set."""

import numpy as np
import pytest
import torch
from support import cases, literal
from support.agreement import agrees, close, kept
from support.emulation import EMULATIONS
from support.subjects import Subject

from rka_fast import Covariance, Kernels, Location, Shape, kernelized_attention
from rka_fast.ops.arguments import Relations
from rka_fast.ops.reference import covariance
from rka_fast.ops.triton import interpreted
from rka_fast.verification import bounds


def indefinite():
    """Inputs whose counts give correlations far beyond 1 in the first sequence.

    Without a shape: where L L' is not K, backends differ in which of them K alpha is of.
    """
    inputs = cases.random_inputs(n=7, shape=False, requires_grad=True)
    counts = inputs["covariance"].kernels.cooccurrence.clone()
    counts[0] = 9.0 - 5.0 * torch.eye(7)
    return cases.replace(inputs, {"covariance.kernels.cooccurrence": counts})


def test_set_pivots_are_those_of_the_literal_evaluation(backend):
    inputs = indefinite()
    output = backend(**inputs, is_causal=True, seed=4, check_counts=False)
    allowed = np.tril(np.ones((2, 2, 7, 7), bool))
    expected = literal.evaluate(inputs, allowed, np.ones((2, 7), bool), "sample", "leaky_relu", 4)
    # Entries of L are up to 5, where K of other tests has them below 1, in each of two factors.
    close(output, expected, bounds.NOISE + 5**2 * backend.tolerance["atol"])


def test_gradients_at_set_pivots_are_those_of_the_reference(backend):
    agrees(backend, indefinite(), is_causal=True, check_counts=False)


def near_constant(n, keys_that_differ=0, spread=1e-4):
    """A sequence of nearly the same token, the first `keys_that_differ` apart."""
    rng = torch.Generator().manual_seed(1)

    def new(*shape):
        return torch.randn(shape, generator=rng)

    features = new(1, 1, 8) + spread * new(1, n, 8)
    if keys_that_differ:
        features[:, :keys_that_differ] = new(1, keys_that_differ, 8)
    pair = (new(1, 1, n, 4), new(1, 1, n, 4))
    return {
        "location": Location(*pair),
        "value": new(1, 1, n, 4),
        "covariance": Covariance(*pair, Kernels(features)),
        "shape": Shape(*pair),
    }


def fails(inputs, jitter):
    """The first pivot that is not positive in float32, counted from 1; 0 for none."""
    features, mixture = inputs["covariance"].kernels.features, torch.tensor([[0.0, 1.0, 0.0]])
    gammas = torch.tensor([2.0, 2.0])
    k = covariance.correlation(Relations(features, gammas, mixture, jitter=jitter))
    return torch.linalg.cholesky_ex(k)[1].item()


def all_finite(backend, inputs, jitter):
    leaves = cases.fresh_leaves(inputs)
    output = backend(**cases.replace(inputs, leaves), is_causal=True, jitter=jitter, seed=1)
    grads = torch.autograd.grad(output.square().sum(), list(leaves.values()))
    return all(x.isfinite().all() for x in (output, *grads))


@pytest.mark.parametrize("n", [40, 130])
def test_near_constant_tokens_are_finite(backend, n):
    """A jitter under the rounding of 130 keys does at once what 1e-4 does to thousands of them."""
    inputs = near_constant(n)
    assert fails(inputs, 1e-8)
    assert all_finite(backend, inputs, 1e-8)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
def test_items_that_are_nearly_the_same_leave_the_factor_real(backend, spread):
    assert all_finite(backend, near_constant(50, spread=spread), 1e-4)


def test_near_constant_tokens_are_right(compared):
    """Within twice the error of the reference in float32, which is a thousand times its eps."""
    inputs, options = near_constant(64), {"is_causal": True, "seed": 1}
    exact = bounds.evaluate(bounds.in_double(inputs), "reference", **options)
    eager = bounds.evaluate(inputs, "reference", **options)
    actual = bounds.evaluate(compared.moved(inputs), compared.name, **options)
    eps = torch.finfo(torch.float32).eps
    found = {}
    for name, x in exact.items():
        lost, size = bounds.largest(eager[name] - x), bounds.largest(x)
        budget = 2 * lost + 8 * eps * size  # sums of 64 terms
        found[name] = bounds.Comparison(bounds.largest(actual[name] - x), budget, size)
    kept(found)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "jitter"), [(1024, 1e-8), (2500, 1e-4)])
def test_near_constant_tokens_are_finite_at_length(backend, n, jitter):
    backend.needs(keys=n, dtype=torch.float32)
    if interpreted() or backend.name in EMULATIONS:
        n = 512  # 1,024 take the interpreter five minutes
    inputs = near_constant(n)
    assert fails(inputs, jitter)
    assert all_finite(backend, inputs, jitter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reference", "cpp"])
def test_4096_near_constant_tokens_are_finite(name):
    backend = Subject(name)
    backend.needs()
    inputs = near_constant(4096)
    assert fails(inputs, 1e-4)
    assert all_finite(backend, inputs, 1e-4)


@pytest.mark.parametrize("name", ["reference", "cpp"])
def test_the_future_does_not_move_the_past(name):
    """The last 200 of 1,600 tokens fail, or do not: the first 1,400 keep their bits."""
    Subject(name).needs()
    rng = torch.Generator().manual_seed(5)
    different, jitter = near_constant(1600, keys_that_differ=1600), 1e-6
    kernels = Kernels(torch.randn(1, 1600, 64, generator=rng), torch.tensor([9.0, 9.0]))
    fine = {**different, "covariance": different["covariance"]._replace(kernels=kernels)}
    features = kernels.features.clone()
    features[:, 1400:] = features[:, 1400:1401] + 1e-4 * features[:, 1400:]
    failing = cases.replace(fine, {"covariance.kernels.features": features})
    item = torch.tensor([[0.0, 1.0, 0.0]])
    relations = Relations(features, kernels.concentration, item, jitter=jitter)
    k = [
        covariance.correlation(relations._replace(features=x["covariance"].kernels.features))
        for x in (fine, failing)
    ]
    assert [torch.linalg.cholesky_ex(x)[1].item() > 1400 for x in k] == [False, True]
    first, second = (
        kernelized_attention(**x, is_causal=True, jitter=jitter, seed=1, backend=name)
        for x in (fine, failing)
    )
    assert torch.equal(first[:, :, :1400], second[:, :, :1400])
    assert second.isfinite().all() and not torch.equal(first, second)


def test_nan_still_gives_nan(backend):
    inputs = near_constant(20)
    features = inputs["covariance"].kernels.features.clone()
    features[0, 7] = torch.nan
    inputs = cases.replace(inputs, {"covariance.kernels.features": features})
    assert backend(**inputs, is_causal=True, jitter=1e-8, seed=1)[0].isnan().all()
