"""Counts that are none are refused with the remedy, or show as NaN where values cannot be read."""

import pytest
import torch
from support import cases

from rka_fast import KernelizedAttention, Kernels, check_counts, kernelized_attention
from rka_fast.ops.counts import counts_or_nan


def incidence(batch=2, users=9, items=6):
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 2, (batch, users, items), generator=rng).double()


def gram():
    x = incidence()
    return x.mT @ x


def without_diagonal(c):
    c.diagonal(dim1=-2, dim2=-1).zero_()


def not_finite(c):
    c[1, 2, 3] = torch.inf


def negative(c):
    c[1, 2, 3] = c[1, 3, 2] = -1


def asymmetric(c):
    c[1, 2, 3] = 0
    c[1, 3, 2] = 1


def no_users_have_it(c):
    """Each two of three items always together, but never the third pair."""
    c[1] = 0
    c[1, :3, :3] = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 2.0], [0.0, 2.0, 2.0]])


WRONG = {
    without_diagonal: ("diagonal kept", "c_ii = 0"),
    not_finite: ("finite", "sequence 1", "inf"),
    negative: ("negative", "c_ij = -1"),
    asymmetric: ("symmetric", "c_ij = 0", "c_ji = 1"),
    no_users_have_it: ("Gram matrix", "sequence 1", "first 3"),
}


DTYPES = (torch.float64, torch.float32, torch.int64)
WRONG_AS = [(c, t) for c in WRONG for t in DTYPES if t != torch.int64 or c is not not_finite]


@pytest.mark.parametrize(("change", "dtype"), WRONG_AS)
def test_wrong_counts_are_refused(change, dtype):
    c = gram()
    change(c)
    with pytest.raises(ValueError, match="cooccurrence") as error:
        check_counts(c.to(dtype))
    for part in ("cooccurrence", "X.T @ X", *WRONG[change]):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
)
@pytest.mark.parametrize("size", [(9, 6), (3, 40), (600, 50)])
def test_counts_are_let_pass(dtype, size):
    """Fewer users than items, repeated items and rounding to 8 bits are no reason to refuse."""
    x = incidence(3, *size)
    x[:, :, 1] = x[:, :, 0]
    x[:, :, 2] = 0
    check_counts((x.mT @ x).to(dtype))
    x[0, 0] = 0  # a user left out
    check_counts((x.mT @ x).to(dtype))


def test_padding_is_not_looked_at():
    c = gram()
    c[0, 4:] = c[0, :, 4:] = torch.inf
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    check_counts(c, padding)
    with pytest.raises(ValueError, match="finite"):
        check_counts(c)


def test_a_shape_is_named():
    with pytest.raises(ValueError, match=r"\(batch, keys, keys\), got \(6, 6\)"):
        check_counts(gram()[0])
    with pytest.raises(TypeError, match="key_padding_mask: expected a tensor, got list"):
        check_counts(gram(), [True])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="key_padding_mask: expected dtype bool"):
        check_counts(gram(), torch.zeros(gram().shape[:2]))
    with pytest.raises(ValueError, match=r"key_padding_mask: expected shape \(\d, 6\), got \(6,\)"):
        check_counts(gram(), torch.zeros(6, dtype=torch.bool))


def inputs_with(c, **changes):
    inputs = cases.random_inputs(**changes)
    return cases.replace(inputs, {"covariance.kernels.cooccurrence": c})


@pytest.mark.parametrize("change", WRONG)
def test_the_operator_and_the_module_refuse_them(change):
    c = gram()
    change(c)
    with pytest.raises(ValueError, match=r"X\.T @ X"):
        kernelized_attention(**inputs_with(c), mode="mean")
    module, x = KernelizedAttention(8, 2, batch_first=True).double(), torch.randn(2, 6, 8).double()
    with pytest.raises(ValueError, match=r"X\.T @ X"):
        module(x, x, x, cooccurrence=c)


def test_ready_kernels_are_taken_at_their_word():
    """A trainer's counts are right by construction; a factor of them at each step would cost."""
    c = gram()
    without_diagonal(c)
    kernelized_attention(**inputs_with(c), mode="mean", check_counts=False)
    module, x = KernelizedAttention(8, 2, batch_first=True).double(), torch.randn(2, 6, 8).double()
    assert module(x, x, x, kernels=Kernels(x, cooccurrence=c))[0].isfinite().all()


@pytest.mark.parametrize("change", [x for x in WRONG if x is not no_users_have_it])
def test_compiled_they_show_as_nan_in_their_sequence(backend, change):
    c = gram()
    change(c[1:] if change is without_diagonal else c)
    inputs = inputs_with(c)

    def call(counts):
        kernels = inputs["covariance"].kernels._replace(cooccurrence=counts)
        covariance = inputs["covariance"]._replace(kernels=kernels)
        return backend(**{**inputs, "covariance": covariance}, mode="mean")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    output = compiled(c)
    assert output[1].isnan().any() and not output[0].isnan().any()
    fine = gram()
    torch.testing.assert_close(compiled(fine), call(fine))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_elementwise_rule_leaves_right_counts_alone(dtype):
    x = incidence(2, 600, 20)
    c = (x.mT @ x).to(dtype)
    padding = torch.zeros(2, 20, dtype=torch.bool)
    padding[0, 15:] = True
    found = torch.compile(counts_or_nan, backend="eager", fullgraph=True)(c, padding)
    assert torch.equal(found, c.to(found.dtype))
