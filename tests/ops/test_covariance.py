"""The covariance against literal loops, and its promise: always a correlation matrix."""

import numpy as np
import pytest
import torch
from support import literal

from rka_fast.ops.arguments import Relations
from rka_fast.ops.reference import covariance


def tf32(x):
    """x rounded to the 10 mantissa bits of tf32."""
    bits = x.float().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


ROUNDING = {
    "float32": lambda x: x.float(),
    "bfloat16": lambda x: x.bfloat16().float(),
    "tf32": tf32,
}


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("kind", ["random", "repeated", "nearly equal", "zero", "tiny", "huge"])
def test_correlation_is_positive_definite_with_unit_diagonal(rounding, kind):
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(8, 60, 16, generator=rng)
    if kind == "repeated":
        x = x[:, torch.randint(0, 5, (60,), generator=rng)]
    elif kind == "nearly equal":
        x = x[:, :1] + 1e-4 * x
    elif kind == "zero":
        x = torch.zeros_like(x)
    elif kind in ("tiny", "huge"):
        x = x * (1e-15 if kind == "tiny" else 1e15)
    x = ROUNDING[rounding](x)
    incidence = torch.randint(0, 2, (8, 60, 20), generator=rng).float()
    mixture = torch.rand(8, 3, generator=rng).softmax(-1)
    gate, counts = 1.0 + 0.3 * x[:, 0].sign(), incidence @ incidence.mT
    k = covariance.correlation(Relations(x, torch.tensor([2.0, 0.5]), mixture, gate, counts))
    assert torch.equal(k.diagonal(dim1=-2, dim2=-1), torch.ones(8, 60))
    assert (k - k.mT).abs().max() <= 4 * torch.finfo(torch.float32).eps
    assert torch.linalg.eigvalsh(k.double()).min() > 0
    assert torch.isfinite(covariance.cholesky(k, 1e-4)).all()


def test_shape_prior_is_the_papers_sum():
    rng = np.random.default_rng(0)
    incidence = rng.integers(0, 2, (6, 9))
    counts = torch.from_numpy(incidence @ incidence.T).double()[None]
    allowed = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.4
    # c_tt enters only where t is allowed; its plain count does not
    allowed |= torch.eye(6, dtype=torch.bool)
    prior = covariance.shape_prior(counts, allowed)[0, 0]
    for t in range(6):
        seen = np.flatnonzero(allowed[0, 0, t].numpy())
        expected = literal.prior(counts[0].numpy(), t, seen)
        np.testing.assert_allclose(prior[t], expected, atol=1e-12)


def test_shape_prior_of_unrelated_items_is_zero():
    allowed = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    assert torch.equal(
        covariance.shape_prior(torch.diag(torch.tensor([4.0, 2.0, 7.0]))[None], allowed),
        torch.zeros(1, 1, 3, 3),
    )


def test_cholesky_backward_is_the_derivative():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(2, 5, 5, generator=rng, dtype=torch.float64)
    k = (a @ a.mT + torch.eye(5)).requires_grad_()
    grad = torch.randn(2, 5, 5, generator=rng, dtype=torch.float64)
    factor = torch.linalg.cholesky(k)
    (expected,) = torch.autograd.grad(factor, k, grad)
    actual = covariance.cholesky_backward(grad, factor.detach())
    torch.testing.assert_close(actual, 0.5 * (expected + expected.mT))


INDEFINITE = torch.tensor(
    [
        [1.0, 0.9, -0.9, 0.2],
        [0.9, 1.0, 0.9, 0.1],
        [-0.9, 0.9, 1.0, 0.3],
        [0.2, 0.1, 0.3, 1.0],
    ],
    dtype=torch.float64,
)


def test_a_pivot_below_zero_is_set_and_its_column_ends():
    factor = covariance.cholesky(INDEFINITE[None], 1e-4)[0]
    np.testing.assert_allclose(factor, literal.factor(INDEFINITE.numpy(), 1e-4), atol=1e-14)
    assert factor[2, 2] == pytest.approx((1e-4 / 1.0001) ** 0.5) and factor[3, 2] == 0
    # What was added to K lies in the column and the row of that pivot alone.
    added = factor @ factor.mT - INDEFINITE
    added[2, 2:] = added[2:, 2] = 0
    torch.testing.assert_close(added, torch.zeros(4, 4).double(), rtol=0, atol=1e-15)


def test_other_matrices_of_the_batch_keep_their_bits():
    fine = torch.eye(4, dtype=torch.float64) + 0.1
    factor = covariance.cholesky(torch.stack((fine, INDEFINITE)), 1e-4)
    assert torch.equal(factor[0], torch.linalg.cholesky(fine))


def test_the_gradient_takes_what_was_added_as_a_constant():
    k = INDEFINITE.clone().requires_grad_()
    factor = covariance.cholesky(k, 1e-4)
    added = (factor @ factor.mT - k).detach()
    grad = torch.randn(4, 4, dtype=torch.float64)
    (actual,) = torch.autograd.grad(factor, k, grad)
    (expected,) = torch.autograd.grad(torch.linalg.cholesky(k + added), k, grad)
    torch.testing.assert_close(actual, 0.5 * (expected + expected.mT), rtol=1e-8, atol=1e-8)


def test_nan_stays_nan():
    k = torch.stack((INDEFINITE, torch.eye(4, dtype=torch.float64)))
    k[0, 3, 1] = k[0, 1, 3] = torch.nan
    factor = covariance.cholesky(k, 1e-4)
    assert factor[0].isnan().all() and torch.equal(factor[1], k[1])
