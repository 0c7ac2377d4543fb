"""What is the Triton backend's alone: its launches, poisoned memory and tf32.

The operator's own tests, tests/ops, run over it as over every backend.
"""

import pytest
import torch
from support.agreement import agrees
from support.cases import random_inputs, some_rows, with_kernels
from support.subjects import Subject

from rka_fast import Location, kernelized_attention
from rka_fast.ops.arguments import MODES
from rka_fast.verification.bounds import evaluate

TRITON = Subject("triton", dtype=torch.float32)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """PyTorch fills what `empty` gives with NaN: scratch that is read, or results that are not
    written, would show it."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def inputs_of(**case):
    small = {"batch": 1, "heads": 1, "width": 6, "feature_width": 5}
    return random_inputs(**{"dtype": torch.float32} | small | case)


def test_a_long_sequence_in_one_launch(monkeypatch):
    """As for many sequences; tests/ops/test_agreement.py has the launches of a few."""
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "MANY_SEQUENCES", 1)
    agrees(TRITON, inputs_of(n=130), is_causal=True, dropout_p=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_every_launch_with_rows_of_several_tiles_times_and_a_scale(monkeypatch, mode):
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH_KEYS", 8)
    inputs, options = some_rows(21, 69, 70, batch=1, heads=2, width=6)
    padding = torch.zeros(1, 70, dtype=torch.bool)
    padding[0, 30:36] = True
    agrees(TRITON, inputs, mode=mode, key_padding_mask=padding, dropout_p=0.2, **options)


@pytest.fixture
def tf32():
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = before


def test_float32_in_tf32_where_pytorch_allows_it(tf32):
    """K of nearly equal items stays positive definite; the rest is off by tf32's rounding."""
    inputs = inputs_of(n=20)
    options = {"is_causal": True, "seed": 11}
    actual = evaluate(inputs, "triton", **options)
    expected = evaluate(inputs, "reference", **options)
    error = (actual["output"] - expected["output"]).abs().max()
    assert 1e-6 < error < 0.05  # 11 bits, grown by the conditioning of K
    features = inputs["covariance"].kernels.features
    near = with_kernels(inputs, features=features[:, :1] + 1e-3 * features)
    close = evaluate(near, "triton", **options)
    assert all(x.isfinite().all() for x in close.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "batch", "heads"), [(20, 2, 1), (40, 1, 2)])
def test_every_launch_of_a_long_sequence(monkeypatch, mode, n, batch, heads):
    """The path of long sequences with several of them, several heads, masks and bias."""
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH_KEYS", 8)
    padding = torch.zeros(batch, n, dtype=torch.bool)
    padding[0, :3] = True
    inputs = inputs_of(n=n, batch=batch, heads=heads, bias=True)
    agrees(TRITON, inputs, mode=mode, is_causal=True, key_padding_mask=padding)


@pytest.mark.parametrize("one_launch", [128, 8])
def test_the_same_bits_again_and_for_any_number_of_programs(monkeypatch, one_launch):
    from rka_fast.ops.triton import launch

    monkeypatch.setattr(launch, "ONE_LAUNCH_KEYS", one_launch)
    inputs = inputs_of(n=9, batch=3, heads=2)
    options = {"is_causal": True, "dropout_p": 0.1, "seed": 11}
    first = evaluate(inputs, "triton", **options)
    for count in (1, 7):
        monkeypatch.setattr(launch, "programs", lambda c, device, count=count: count)
        again = evaluate(inputs, "triton", **options)
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
