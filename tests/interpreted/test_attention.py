"""The Triton kernels, interpreted, against the reference in float64: output and every gradient."""

from itertools import permutations

import pytest
import torch
from support import cases
from support.cases import differentiable, random_inputs, replace, run

from rka_fast import Location, kernelized_attention
from rka_fast.ops.arguments import MODES


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """PyTorch fills what `empty` gives with NaN: scratch that is read, or results that are not
    written, would show it."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def agrees(inputs, **options):
    cases.agrees("triton", inputs, **options)


def inputs_of(**case):
    small = {"batch": 1, "heads": 1, "width": 6, "feature_width": 5}
    return random_inputs(**{"dtype": torch.float32, "requires_grad": True} | small | case)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 50, 64, 65, 100, 128])
def test_every_length(n):
    """Causal, in one launch."""
    agrees(inputs_of(n=n), is_causal=True)


@pytest.mark.parametrize(("n", "many"), [(200, 128), (130, 1)])
def test_a_long_sequence(monkeypatch, n, many):
    """Beyond 128 keys: in launches of their own, or in one for many sequences."""
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "MANY", many)
    agrees(inputs_of(n=n), is_causal=True, dropout_p=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("launches", [1, 2])
def test_rows_of_several_tiles_with_times_and_a_scale(monkeypatch, mode, launches):
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH", 128 if launches == 1 else 8)
    small = {"batch": 1 + launches % 2, "heads": 2, "width": 6}
    inputs, options = cases.some_rows(21, 69, 70, **small)
    padding = torch.zeros(small["batch"], 70, dtype=torch.bool)
    padding[0, 30:36] = True
    agrees(inputs, mode=mode, key_padding_mask=padding, dropout_p=0.2, **options)


@pytest.fixture
def tf32():
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = before


def test_float32_in_tf32_where_pytorch_allows_it(tf32):
    """K of nearly equal items stays positive definite; the rest is off by tf32's rounding."""
    inputs = inputs_of(n=20)
    actual = run(inputs, "triton", is_causal=True)
    expected = run(inputs, "reference", is_causal=True)
    error = (actual["output"] - expected["output"]).abs().max()
    assert 1e-6 < error < 0.05  # 11 bits, grown by the conditioning of K
    kernels = inputs["covariance"].kernels
    close = (kernels.features[:, :1] + 1e-3 * kernels.features).detach().requires_grad_()
    close = run(replace(inputs, {"covariance.kernels.features": close}), "triton", is_causal=True)
    assert all(x.isfinite().all() for x in close.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "batch", "heads"), [(20, 2, 1), (40, 1, 2)])
def test_every_launch_of_a_long_sequence(monkeypatch, mode, n, batch, heads):
    """The path of long sequences with several of them, several heads, masks and bias."""
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH", 8)
    padding = torch.zeros(batch, n, dtype=torch.bool)
    padding[0, :3] = True
    inputs = inputs_of(n=n, batch=batch, heads=heads, bias=True)
    agrees(inputs, mode=mode, is_causal=True, key_padding_mask=padding)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"shape": False},
        {"gate": False},
        {"cooccurrence": False},
        {"gate": False, "cooccurrence": False, "shape": False},
        {"bias": True, "heads": 2, "batch": 3},
    ],
)
def test_modes_and_parts(mode, case):
    agrees(inputs_of(n=18, **case), mode=mode, is_causal=len(case) % 2 == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heads_differ", [False, True])
def test_masks_padding_and_dropout(mode, heads_differ):
    rng = torch.Generator().manual_seed(3)
    batch, heads = (1, 2) if heads_differ else (2, 1)
    mask = torch.rand(batch, heads, 35, 35, generator=rng) > 0.3
    mask[:, :, 5] = False  # a row that may see nothing
    padding = torch.zeros(batch, 35, dtype=torch.bool)
    padding[0, :7] = padding[-1, 33:] = True
    inputs = inputs_of(n=35, batch=batch, heads=heads)
    agrees(inputs, mask=mask, key_padding_mask=padding, mode=mode, dropout_p=0.2)


@pytest.mark.parametrize("shape", [(1, 1, 1, 18), (2, 1, 18, 1), (1, 2, 18, 18)])
def test_gradient_of_a_broadcast_bias(shape):
    inputs = inputs_of(n=18, batch=2, heads=2)
    bias = torch.randn(shape, requires_grad=True)
    inputs["location"] = inputs["location"]._replace(bias=bias)
    agrees(inputs, is_causal=True, mode="mean")


@pytest.mark.parametrize("keys", [7, 40])
def test_queries_that_are_not_the_keys(keys):
    agrees(inputs_of(n=20, keys=keys, value_width=11, cooccurrence=False), dropout_p=0.1)


@pytest.mark.parametrize("width", [33, 130])
def test_wide_heads_and_features(width):
    agrees(inputs_of(n=6, width=width, feature_width=width, value_width=65), is_causal=True)


def test_heads_that_were_transposed():
    inputs = inputs_of(n=20, heads=2, batch=2)
    strided = {
        name: x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        for name, x in differentiable(inputs).items()
        if x.dim() == 4
    }
    assert not any(x.is_contiguous() for x in strided.values())
    agrees(replace(inputs, strided))


def test_repeated_items():
    """K is singular but for its jitter: terms of its gradient are far larger than their sum."""
    inputs = inputs_of(n=18)
    kernels = inputs["covariance"].kernels
    item = torch.arange(18) // 3
    features = kernels.features.detach()[:, item].requires_grad_()
    counts = kernels.cooccurrence[:, item][:, :, item]
    kernels = kernels._replace(features=features, cooccurrence=counts)
    inputs["covariance"] = inputs["covariance"]._replace(kernels=kernels)
    agrees(inputs, orders=permutations(range(5)), is_causal=True)


def test_only_the_gradients_that_are_needed():
    inputs = inputs_of(n=18)
    every = run(inputs, "triton", is_causal=True)
    for wanted in ("value", "covariance.bias", "shape.key", "covariance.kernels.concentration"):
        some = {
            name: x.detach().requires_grad_(name == wanted)
            for name, x in differentiable(inputs).items()
        }
        actual = run(replace(inputs, some), "triton", is_causal=True)
        assert actual.keys() == {"output", wanted}
        assert torch.equal(actual[wanted], every[wanted])


@pytest.mark.parametrize("one_launch", [128, 8])
def test_the_same_bits_again_and_for_any_number_of_programs(monkeypatch, one_launch):
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH", one_launch)
    inputs = inputs_of(n=9, batch=3, heads=2)
    options = {"is_causal": True, "dropout_p": 0.1}
    first = run(inputs, "triton", **options)
    for count in (1, 7):
        monkeypatch.setattr(launch, "programs", lambda c, device, count=count: count)
        again = run(inputs, "triton", **options)
        for name, x in first.items():
            assert torch.equal(again[name], x), (name, count)


def test_refusals_name_what_is_wrong():
    x = torch.zeros(1, 1, 1025, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="float64.*1025 keys|1025 keys.*float64"):
        kernelized_attention(Location(x, x), x, mode="location", backend="triton")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, ("ieee", "ieee")),
        (torch.bfloat16, ("tf32", "ieee")),
        (torch.float16, ("tf32", "ieee")),
    ],
)
def test_only_what_tf32_holds_is_multiplied_in_it(dtype, expected):
    """11 bits: all of a half-precision query, not of the float32 features beside it."""
    from rka_fast.ops.arguments import Arguments
    from rka_fast.ops.triton import launch

    x = torch.zeros(1, 1, 4, 6, dtype=dtype)
    a = Arguments(x, x, x, mode="location")
    p, _ = launch.problem(a, launch.config(a, backward=False))
    actual = (p.precision, p.feature_precision)
    assert tuple(x.value for x in actual) == expected
