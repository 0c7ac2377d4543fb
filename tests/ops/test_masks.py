"""Finite numbers that stand for -inf hide their keys; biases that mean something keep theirs."""

import math

import numpy as np
import pytest
import torch
from support import cases
from support.agreement import close
from support.subjects import Subject

from rka_fast import KernelizedAttention

SINGLE = Subject("auto", dtype=torch.float32)
MODES = ("sample", "mean", "location")
# What foreign code writes, and the dtype in which it does.
STAND_INS = [
    (-1e4, torch.float32),
    (-1e4, torch.bfloat16),  # rounds to -9,984
    (-65504.0, torch.float16),
    (-1e9, torch.float32),
    (torch.finfo(torch.float32).min, torch.float32),
    (torch.finfo(torch.float64).min, torch.float64),
    (-math.inf, torch.float32),
]


def hidden_pairs(kind, batch, heads, n):
    """A boolean mask, True where a key is hidden; every row sees its own key."""
    rng = torch.Generator().manual_seed(4)
    if kind == "causal":
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)[None, None]
    elif kind == "keys":
        hidden = torch.zeros(batch, 1, 1, n, dtype=torch.bool)
        hidden[0, ..., n - 2 :] = hidden[-1, ..., :1] = True
    else:
        hidden = torch.rand(batch, heads, n, n, generator=rng) > 0.5
        hidden[:, :, range(n), range(n)] = False
    return hidden


def results(backend, inputs, **options):
    leaves = cases.differentiable(inputs)
    output = backend(**inputs, seed=3, **options)
    grads = torch.autograd.grad(
        output.double().square().sum(), list(leaves.values()), allow_unused=True
    )
    return {"output": output, **dict(zip(leaves, grads, strict=True))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["causal", "keys", "heads"])
@pytest.mark.parametrize(("value", "dtype"), STAND_INS)
def test_a_finite_mask_is_the_boolean_one_bit_for_bit(backend, value, dtype, kind, mode):
    inputs = cases.random_inputs(n=6, requires_grad=True)
    hidden = hidden_pairs(kind, 2, 2, 6)
    bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, value)
    additive = {**inputs, "location": inputs["location"]._replace(bias=bias)}
    actual = results(backend, additive, mode=mode)
    expected = results(backend, inputs, mode=mode, mask=~hidden)
    for name, x in expected.items():
        assert (x is None and actual[name] is None) or torch.equal(actual[name], x), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [-1e4, -1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("which", ["attn_mask", "key_padding_mask"])
def test_a_finite_mask_of_the_module_is_the_boolean_one_bit_for_bit(which, value, mode):
    torch.manual_seed(1)
    module = KernelizedAttention(8, 2, batch_first=True)
    x = torch.randn(3, 7, 8)
    if which == "attn_mask":
        boolean = torch.ones(7, 7, dtype=torch.bool).triu(1)
    else:
        boolean = torch.zeros(3, 7, dtype=torch.bool)
        boolean[0, 4:] = boolean[1, :2] = True
    incidence = torch.randint(0, 2, (3, 7, 9)).float()
    outputs, grads = [], []
    for mask in (boolean, torch.zeros(boolean.shape).masked_fill(boolean, value)):
        output, _ = module(
            x, x, x, mode=mode, seed=5, cooccurrence=incidence @ incidence.mT, **{which: mask}
        )
        module.zero_grad()
        output.square().sum().backward()
        outputs.append(output)
        grads.append([p.grad for p in module.parameters() if p.grad is not None])
    assert torch.equal(*outputs)
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_the_future_does_not_leak_through_a_finite_mask(mode, value):
    torch.manual_seed(0)
    module = KernelizedAttention(8, 2, batch_first=True)
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, -1] = torch.randn(8)
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), value)
    first, second = (module(y, y, y, attn_mask=mask, mode=mode, seed=1)[0] for y in (x, changed))
    if mode == "sample":  # the factor is shared, its leading part may round otherwise
        torch.testing.assert_close(first[:, :-1], second[:, :-1], **SINGLE.tolerance)
    else:
        assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_line_lies_at_5000(backend, dtype):
    """No weight is left either way, but a key that may be seen is in the prior and in K alpha."""
    inputs = cases.random_inputs(n=6)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[:, :3] = False
    expected = backend(**inputs, mask=mask, mode="mean")
    for value, hides in ((-4992.0, False), (-5024.0, True)):  # exact in bfloat16
        bias = torch.zeros(1, 1, 6, 6, dtype=dtype)
        bias[..., :3] = value
        located = {**inputs, "location": inputs["location"]._replace(bias=bias)}
        output = backend(**located, mode="mean")
        assert torch.equal(output, expected) == hides


def test_the_largest_is_that_of_the_keys_that_are_left(backend):
    """A key 9,000 above the others hides them, unless it is hidden itself."""
    inputs = cases.random_inputs(n=5)
    bias = torch.zeros(1, 1, 5, 5)
    bias[..., 4] = 9000.0
    located = {**inputs, "location": inputs["location"]._replace(bias=bias)}
    only = torch.zeros(5, 5, dtype=torch.bool)
    only[:, 4] = True
    torch.testing.assert_close(
        backend(**located, seed=1), backend(**inputs, mask=only, seed=1), **backend.tolerance
    )
    causal = backend(**located, seed=1, is_causal=True)
    expected = backend(**inputs, seed=1, is_causal=True)
    torch.testing.assert_close(causal[:, :, :4], expected[:, :, :4], **backend.tolerance)
    assert torch.equal(
        backend(**located, seed=1, mask=~only), backend(**inputs, seed=1, mask=~only)
    )


@pytest.mark.parametrize("value", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_a_row_of_one_large_value_is_what_multihead_attention_makes_of_it(value):
    torch.manual_seed(2)
    plain = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    module = KernelizedAttention(8, 2, batch_first=True, activation="identity")
    module.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 8)
    mask = torch.zeros(5, 5)
    mask[3] = value
    actual, weights = module(x, x, x, attn_mask=mask, mode="location")
    expected, expected_weights = plain(x, x, x, attn_mask=mask)
    # Logits of both round to the spacing of floats near the value, or are all the value.
    spacing = min(torch.finfo(torch.float32).eps * abs(value), 1.0)
    atol = 2 * spacing if value == -1e4 else 1e-6
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=atol)
    if value != -1e4:
        torch.testing.assert_close(weights[:, 3], torch.full((2, 5), 0.2))


def test_a_row_of_minus_infinity_is_zero(backend):
    inputs = cases.random_inputs(n=5, requires_grad=True)
    bias = torch.zeros(1, 1, 5, 5)
    bias[..., 2, :] = -math.inf
    located = {**inputs, "location": inputs["location"]._replace(bias=bias)}
    found = results(backend, located)
    assert found["output"][:, :, 2].abs().max() == 0
    assert all(x is None or x.isfinite().all() for x in found.values())


def test_alibi_over_4096_positions_keeps_its_values(backend):
    """The steepest slope below one, for the last queries, against NumPy in float64."""
    keys, rows, width = 4096, 3, 2
    backend.needs(keys=keys)
    x = cases.random_inputs(
        batch=1, heads=1, n=rows, keys=keys, width=width, cooccurrence=False, gate=False
    )
    distance = torch.arange(keys - rows, keys)[:, None] - torch.arange(keys)
    slope = 2 ** (-8 / 128)
    bias = (-slope * distance.clamp_min(0)).double()[None, None]
    assert bias.min() < -3900
    location = x["location"]._replace(bias=bias)
    output = backend(**{**x, "location": location}, mode="mean", activation="identity")

    q, k, v = (t[0, 0].numpy() for t in (*x["location"][:2], x["value"]))
    features = x["covariance"].kernels.features[0].numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    correlation = np.exp(2 * 1.7 * (unit @ unit.T - 1)) / (1 + 1e-4)
    np.fill_diagonal(correlation, 1)
    alpha = x["shape"].query[0, 0].numpy() @ x["shape"].key[0, 0].numpy().T / math.sqrt(width)
    p = alpha @ correlation
    delta = p / np.sqrt(1 + (alpha * p).sum(1, keepdims=True))
    c = x["covariance"]
    raw = c.query[0, 0].numpy() @ c.key[0, 0].numpy().T / math.sqrt(width) + c.bias[0].item()
    z = q @ k.T / math.sqrt(width) + bias[0, 0].numpy()
    z += np.log1p(np.exp(raw)) * delta * math.sqrt(2 / math.pi)
    weights = np.exp(z - z.max(1, keepdims=True))
    expected = weights @ v / weights.sum(1, keepdims=True)
    close(output[0, 0], expected, keys * torch.finfo(backend.dtype).eps)  # sums over the keys


def test_a_finite_mask_compiles_without_a_break(backend):
    inputs = cases.random_inputs(n=6, dtype=torch.float32)
    hidden = hidden_pairs("causal", 2, 2, 6)

    def call(bias):
        location = inputs["location"]._replace(bias=bias)
        return backend(**{**inputs, "location": location}, seed=1)

    bias = torch.zeros(hidden.shape).masked_fill(hidden, -1e9)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(bias), call(bias))
