"""Position by position equals the whole pass, and nothing is factored twice."""

import pytest
import torch
from support import cases
from support.subjects import Subject

from rka_fast import KernelizedAttention, Location, kernelized_attention
from rka_fast.decoding import Decoder, ModuleDecoder
from rka_fast.ops.reference import covariance

SINGLE = Subject("auto", dtype=torch.float32)
N = 9
STEPS = [[1] * N, [4, 1, 1, 3]]


def positions(inputs, first, last):
    """The inputs of queries first .. last - 1 among the keys before last."""

    def cut(field, x):
        if isinstance(x, tuple):
            return type(x)(*(cut(f, y) for f, y in zip(x._fields, x, strict=True)))
        if x is None or field in ("concentration", "mixture", "gate", "bias"):
            return x
        if field == "query":
            return x[..., first:last, :]
        return x[:, :last, :last] if field == "cooccurrence" else x[..., :last, :]

    return {name: cut(name, x) for name, x in inputs.items()}


@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("changes", [{}, {"cooccurrence": False, "gate": False}, {"shape": False}])
def test_the_operator_position_by_position(mode, steps, changes):
    inputs = cases.random_inputs(n=N, dtype=torch.float32, **changes)
    padding = torch.zeros(2, N, dtype=torch.bool)
    padding[0, :3] = True
    options = {"mode": mode, "seed": 8, "dropout_p": 0.2}
    whole = kernelized_attention(**inputs, key_padding_mask=padding, is_causal=True, **options)
    decoder, rows, first = Decoder(), [], 0
    for count in steps:
        last = first + count
        part = positions(inputs, first, last)
        rows.append(decoder(**part, key_padding_mask=padding[:, :last], **options))
        first = last
    torch.testing.assert_close(torch.cat(rows, 2), whole, **SINGLE.tolerance)


def test_autocast_does_not_round_it():
    inputs = cases.random_inputs(n=N, dtype=torch.float32)
    plain, other = Decoder(), Decoder()
    for first, last in ((0, 5), (5, N)):
        part = positions(inputs, first, last)
        expected = plain(**part, seed=8)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(other(**part, seed=8), expected)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_the_module_position_by_position(mode, batch_first):
    torch.manual_seed(3)
    module = KernelizedAttention(8, 2, batch_first=batch_first, user_dim=3).eval()
    x, user = torch.randn(2, N, 8), torch.randn(2, 3)
    seen = torch.randint(0, 2, (2, 20, N)).float()
    counts = seen.mT @ seen
    if not batch_first:
        x = x.transpose(0, 1)
    whole, _ = module(x, x, x, is_causal=True, mode=mode, seed=5, user=user, cooccurrence=counts)
    decoder = ModuleDecoder(module, seed=5, mode=mode, user=user)
    along = 1 if batch_first else 0
    rows = [
        decoder(x.narrow(along, t, 1), cooccurrence=counts[:, : t + 1, : t + 1]) for t in range(N)
    ]
    torch.testing.assert_close(torch.cat(rows, along), whole, **SINGLE.tolerance)


def test_a_position_factors_nothing_but_its_own_pivot(monkeypatch):
    sizes, original = [], torch.linalg.cholesky_ex

    def noted(k):
        sizes.append(k.shape[-1])
        return original(k)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", noted)
    inputs, decoder = cases.random_inputs(n=N, dtype=torch.float32), Decoder()
    decoder(**positions(inputs, 0, 6), seed=1)
    for t in range(6, N):
        decoder(**positions(inputs, t, t + 1), seed=1)
    assert sizes == [6, 1, 1, 1]


def test_a_grown_factor_is_the_factor_where_pivots_are_set():
    a = torch.randn(12, 3, dtype=torch.float64)
    k = a @ a.T  # of rank 3: every further pivot is rounding
    k = k / k.diagonal().sqrt() / k.diagonal().sqrt()[:, None] - 1e-3 * torch.eye(12)
    whole = covariance.cholesky(k[None], 1e-4)
    assert (whole.diagonal(dim1=-2, dim2=-1) == (1e-4 / 1.0001) ** 0.5).sum() > 3
    factor = None
    for t in range(1, 13):
        factor = covariance.grown(factor, k[None, :t, :t], 1e-4)
    torch.testing.assert_close(factor, whole)


def test_a_gap_is_named():
    inputs, decoder = cases.random_inputs(n=N, dtype=torch.float32), Decoder()
    decoder(**positions(inputs, 0, 4), seed=1)
    with pytest.raises(ValueError, match="the 4 positions so far and the 1 of location.query, got"):
        decoder(**positions(inputs, 5, 6), seed=1)


def test_a_module_without_kernels_is_refused():
    module = KernelizedAttention(8, 2, own_kernels=False)
    with pytest.raises(ValueError, match="module: .*own_kernels=False.*`Decoder`"):
        ModuleDecoder(module, seed=1)


def test_wrong_calls_are_named():
    module = KernelizedAttention(8, 2, batch_first=True)
    with pytest.raises(TypeError, match="module: expected a KernelizedAttention, got Linear"):
        ModuleDecoder(torch.nn.Linear(2, 2), seed=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"x: expected new positions \(B, new, 8\), got shape"):
        ModuleDecoder(module, seed=1)(torch.zeros(5, 8))
    decoder = ModuleDecoder(module, seed=1)
    decoder(torch.zeros(3, 2, 8))
    with pytest.raises(ValueError, match=r"of the same 3 sequences, got shape \(2, 1, 8\)"):
        decoder(torch.zeros(2, 1, 8))
    inputs = cases.random_inputs(n=N, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"options: .*\['is_causal'\]"):
        Decoder()(**inputs, seed=1, is_causal=True)
    with pytest.raises(TypeError, match=r"location: expected rka_fast.Location\(.*got Tensor"):
        Decoder()(inputs["value"], inputs["value"], seed=1)
    query, key = inputs["location"][:2]
    with pytest.raises(ValueError, match="location.query: expected 4 dimensions"):
        Decoder()(**{**inputs, "location": Location(query[0, 0], key)}, seed=1)
    with pytest.raises(TypeError, match="seed: expected an int or a tensor of one int64, got None"):
        ModuleDecoder(module, seed=None)(torch.zeros(1, 2, 8))  # pyright: ignore
    with pytest.raises(TypeError, match="user: expected a tensor, got int"):
        ModuleDecoder(module, seed=1, user=3)(torch.zeros(1, 2, 8))  # pyright: ignore
    with pytest.raises(TypeError, match="x: expected a tensor, got list"):
        decoder([[0.0]])  # pyright: ignore[reportArgumentType]


def test_several_draws_at_a_position():
    inputs = cases.random_inputs(n=N, dtype=torch.float64)
    whole = kernelized_attention(**inputs, is_causal=True, draws=3, seed=5, backend="reference")
    decoder = Decoder()
    rows = [decoder(**positions(inputs, t, t + 1), draws=3, seed=5) for t in range(N)]
    torch.testing.assert_close(torch.cat(rows, 3), whole)
