"""The operator on every backend against literal loops in float64, and the promises it makes."""

import numpy as np
import pytest
import torch
from support import cases

from rka_fast import Covariance, Kernels, kernelized_attention
from rka_fast.ops.arguments import ACTIVATIONS, MODES
from rka_fast.ops.reference.attention import attention


def masks(kind, batch, heads, n):
    """Arguments of the call, the allowed pairs (B, H, n, n) and the existing keys (B, n)."""
    rng = torch.Generator().manual_seed(8)
    allowed = torch.ones(batch, heads, n, n, dtype=torch.bool)
    present = torch.ones(batch, n, dtype=torch.bool)
    arguments = {}
    if "causal" in kind:
        arguments["is_causal"] = True
        allowed = allowed.tril()
    if "padding" in kind:
        present[0, :2] = False
        arguments["key_padding_mask"] = ~present
        allowed = allowed & present[:, None, None, :]
    if "mask" in kind:
        size = (batch, heads if "head" in kind else 1, n, n)
        mask = torch.rand(size, generator=rng) > 0.3
        mask[:, :, :, -1] &= "unseen" not in kind
        mask[:, :, 1] = False  # a row that may see nothing
        arguments["mask"] = mask
        allowed = allowed & mask
        present = present & allowed.any(2).any(1)
    return arguments, allowed.numpy(), present.numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kind", ["none", "causal", "causal padding", "mask", "head mask", "causal mask unseen padding"]
)
def test_equals_the_literal_evaluation(backend, mode, kind):
    inputs = cases.random_inputs(bias="mask" in kind)
    arguments, allowed, present = masks(kind, 2, 2, 6)
    output = backend(**inputs, **arguments, mode=mode, seed=2**40 + 5, dropout_p=0.3)
    expected = cases.literal(inputs, allowed, present, mode, "leaky_relu", 2**40 + 5, dropout=0.3)
    np.testing.assert_allclose(output, expected, atol=1e-6 + backend.tolerance["atol"], rtol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("missing", ["", "cooccurrence", "gate", "shape", "cooccurrence gate"])
def test_activations_and_missing_pieces(backend, activation, missing):
    inputs = cases.random_inputs(**{name: False for name in missing.split()})
    arguments, allowed, present = masks("causal padding", 2, 2, 6)
    output = backend(**inputs, **arguments, activation=activation, seed=3)
    expected = cases.literal(inputs, allowed, present, "sample", activation, 3)
    np.testing.assert_allclose(output, expected, atol=1e-6 + backend.tolerance["atol"], rtol=1e-6)


def test_more_keys_than_queries(backend):
    inputs = cases.random_inputs(n=3, keys=7, value_width=9, cooccurrence=False)
    output = backend(**inputs, seed=3)
    allowed = np.ones((2, 2, 3, 7), bool)
    expected = cases.literal(inputs, allowed, np.ones((2, 7), bool), "sample", "leaky_relu", 3)
    np.testing.assert_allclose(output, expected, atol=1e-6 + backend.tolerance["atol"], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["causal padding", "head mask"])
def test_gradients_of_every_input(backend, mode, kind):
    """Float64 gradcheck; tanh, because the others have a kink that finite differences may hit."""
    inputs = cases.random_inputs(n=4, width=2, feature_width=3, bias=True, requires_grad=True)
    arguments, _, _ = masks(kind, 2, 2, 4)
    leaves = cases.differentiable(inputs)
    assert len(leaves) == 13

    def call(backend, *tensors):
        replaced = cases.replace(inputs, dict(zip(leaves, tensors, strict=True)))
        options = {"mode": mode, "activation": "tanh", "dropout_p": 0.2, "seed": 7}
        return backend(**replaced, **arguments, **options)

    cases.check_gradients(backend, call, tuple(leaves.values()))


@pytest.mark.parametrize("missing", ["cooccurrence", "gate", "shape"])
def test_gradients_with_missing_pieces(backend, missing):
    inputs = cases.random_inputs(
        n=4, width=2, feature_width=3, requires_grad=True, **{missing: False}
    )
    leaves = cases.differentiable(inputs)
    for mode in ("sample", "mean"):

        def call(backend, *tensors, mode=mode):
            replaced = cases.replace(inputs, dict(zip(leaves, tensors, strict=True)))
            return backend(**replaced, is_causal=True, mode=mode, activation="tanh", seed=7)

        cases.check_gradients(backend, call, tuple(leaves.values()))


def test_shared_mixture_and_broadcast_bias_get_summed_gradients(backend):
    inputs = cases.random_inputs(n=4, width=3)
    mixture = torch.rand(1, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 1, 1, 4, dtype=torch.float64, requires_grad=True)

    def call(backend, mixture, bias):
        leaves = {"covariance.kernels.mixture": mixture, "location.bias": bias}
        return backend(**cases.replace(inputs, leaves), activation="tanh", seed=1)

    cases.check_gradients(backend, call, (mixture, bias))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_by_hand_equals_autograd(activation):
    """The reference's own gradient formulas against differentiating its forward pass."""
    inputs = cases.random_inputs(requires_grad=True)
    seen = {}
    import rka_fast.ops.api as api

    def spy(*arguments):
        seen["arguments"] = api.Arguments(*arguments[:-1])
        return attention(seen["arguments"])

    original, api.library.call = api.library.call, spy
    try:
        by_autograd = kernelized_attention(**inputs, activation=activation, seed=2)
    finally:
        api.library.call = original
    by_hand = kernelized_attention(**inputs, activation=activation, seed=2, backend="reference")
    grad = torch.randn_like(by_hand)
    leaves = list(cases.differentiable(inputs).values())
    expected = torch.autograd.grad(by_autograd, leaves, grad)
    actual = torch.autograd.grad(by_hand, leaves, grad)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_prefixes(backend, mode):
    """Row t of one causal pass is the last row of a pass over the first t + 1 positions."""
    inputs = cases.random_inputs(n=7)
    whole = backend(**inputs, is_causal=True, mode=mode, seed=5)
    for t in range(7):
        prefix = backend(**first_positions(inputs, t + 1), is_causal=True, mode=mode, seed=5)
        torch.testing.assert_close(prefix[:, :, -1], whole[:, :, t], **backend.tolerance)


def first_positions(inputs, n):
    def cut(field, x):
        if isinstance(x, tuple):
            return type(x)(*(cut(f, y) for f, y in zip(x._fields, x, strict=True)))
        if x is None or field in ("concentration", "mixture", "gate") or x.dim() < 3:
            return x
        return x[:, :n, :n] if field == "cooccurrence" else x[..., :n, :]

    return {name: cut(name, x) for name, x in inputs.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("content", [1e6, float("nan")])
def test_padding_has_no_influence(backend, mode, content):
    """Whatever padded keys hold, the visible rows and all gradients keep their bits."""
    results = []
    for filling in (0.3, content):
        inputs = cases.random_inputs(n=6)
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, :2] = padding[1, 4:] = True
        leaves = {
            name: x.detach().clone()
            for name, x in cases.differentiable(cases._with_grad(inputs)).items()
        }
        for name in ("location.key", "value", "covariance.key", "shape.key"):
            leaves[name].masked_fill_(padding[:, None, :, None], filling)
        leaves["covariance.kernels.features"].masked_fill_(padding[:, :, None], filling)
        leaves = {name: x.requires_grad_() for name, x in leaves.items()}
        output = backend(
            ** cases.replace(inputs, leaves), key_padding_mask=padding, mode=mode, seed=4
        )  # fmt: skip
        output.square().sum().backward()
        grads = {name: x.grad for name, x in leaves.items() if x.grad is not None}
        for name in ("location.key", "value", "covariance.key", "shape.key"):
            if name in grads:
                assert grads[name][padding[:, None, :].expand(2, 2, 6)].abs().max() == 0
        results.append((output, grads))
    (first, first_grads), (second, second_grads) = results
    assert torch.equal(first, second)
    for name in first_grads:
        assert torch.equal(first_grads[name], second_grads[name]), name


def test_a_key_that_no_row_sees_counts_as_padding(backend):
    inputs = cases.random_inputs(n=5)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[:, 2] = False
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 2] = True
    hidden = backend(**inputs, mask=mask, seed=6)
    padded = backend(**inputs, key_padding_mask=padding, seed=6)
    torch.testing.assert_close(hidden, padded, **backend.tolerance)


def test_a_future_key_gets_no_gradient(backend):
    inputs = cases.random_inputs(n=6, requires_grad=True)
    output = backend(**inputs, is_causal=True, seed=6)
    output[:, :, 2].sum().backward()
    for name in ("location.key", "value", "covariance.key", "shape.key"):
        grad = cases.differentiable(inputs)[name].grad
        assert grad[:, :, 3:].abs().max() == 0 < grad[:, :, :3].abs().max()
    features = cases.differentiable(inputs)["covariance.kernels.features"].grad
    assert features[:, 3:].abs().max() == 0 < features[:, :3].abs().max()


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_see_nothing_are_zero(backend, mode):
    inputs = cases.random_inputs(requires_grad=True)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0] = True
    padding[1, :3] = True
    output = backend(**inputs, is_causal=True, key_padding_mask=padding, mode=mode, seed=1)
    assert output[0].abs().max() == 0 and output[1, :, :3].abs().max() == 0
    assert output[1, :, 3:].abs().min() > 0
    output.sum().backward()
    for leaf in cases.differentiable(inputs).values():
        assert leaf.grad is None or leaf.grad.isfinite().all()


@pytest.mark.parametrize("case", ["repeated", "one item", "zero features", "no co-occurrence"])
def test_degenerate_sequences(backend, case):
    n = 1 if case == "one item" else 6
    inputs = cases.random_inputs(n=n, dtype=torch.float32, requires_grad=True)
    kernels = inputs["covariance"].kernels
    features, counts = kernels.features.detach(), kernels.cooccurrence
    if case == "repeated":
        features, counts = features[:, [0, 0, 0, 1, 1, 1]], counts[:, [0, 0, 0, 1, 1, 1]]
        counts = counts[:, :, [0, 0, 0, 1, 1, 1]]
    elif case == "zero features":
        features = torch.zeros_like(features)
    elif case == "no co-occurrence":
        counts = torch.zeros_like(counts)
    leaves = {
        "covariance.kernels.features": features.requires_grad_(),
        "covariance.kernels.cooccurrence": counts,
    }
    inputs = cases.replace(inputs, leaves)
    output = backend(**inputs, is_causal=True, seed=1)
    allowed = np.tril(np.ones((2, 2, n, n), bool))
    expected = cases.literal(inputs, allowed, np.ones((2, n), bool), "sample", "leaky_relu", 1)
    # Float32 against float64: the factor of a nearly singular K (least eigenvalue about 1e-4)
    # magnifies the rounding of K by up to 1 / sqrt(1e-4).
    np.testing.assert_allclose(output.detach(), expected, atol=100 * 6 * 1.2e-7 * 10)
    output.sum().backward()
    for name, leaf in cases.differentiable(inputs).items():
        assert leaf.grad.isfinite().all(), name


def test_the_seed_decides_everything(backend):
    inputs = cases.random_inputs(dtype=torch.float32, n=9)

    def draw(seed):
        return backend(**inputs, seed=seed, dropout_p=0.1)

    assert torch.equal(draw(1), draw(1))
    assert torch.equal(draw(1), draw(torch.tensor(1)))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), draw(1 + 2**32))
    torch.manual_seed(3)
    first = draw(None)
    assert not torch.equal(first, draw(None))
    torch.manual_seed(3)
    assert torch.equal(first, draw(None))


def test_noise_depends_on_the_indices_alone(backend):
    """A sequence keeps its draw whatever else is in the batch, and (b, h) counts as b * H + h."""
    inputs = cases.random_inputs(batch=2, heads=1)
    whole = backend(**inputs, seed=1)

    def visit(x, pick):
        if isinstance(x, tuple):
            return type(x)(*(visit(y, pick) for y in x))
        return x if x is None or x.dim() < 2 else x[pick]

    first = {name: visit(x, [0]) for name, x in inputs.items()}
    torch.testing.assert_close(backend(**first, seed=1)[0], whole[0], **backend.tolerance)
    twice = {name: visit(x, [0, 0]) for name, x in inputs.items()}
    copies = backend(**twice, seed=1)
    assert not torch.allclose(copies[0], copies[1])
    heads = {  # the same two copies as two heads of one sequence
        "location": type(twice["location"])(
            *(x if x is None else x.transpose(0, 1) for x in twice["location"])
        ),
        "value": twice["value"].transpose(0, 1),
        "shape": type(twice["shape"])(*(x.transpose(0, 1) for x in twice["shape"])),
        "covariance": Covariance(
            twice["covariance"].query.transpose(0, 1),
            twice["covariance"].key.transpose(0, 1),
            first["covariance"].kernels,
            inputs["covariance"].bias.expand(2),
        ),
    }
    torch.testing.assert_close(
        backend(**heads, seed=1)[0], copies[:, 0],
        **backend.tolerance,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_of_low_precision_are_rounding_errors(backend, dtype):
    """At most twice the error of the float32 or half-precision reference, plus one rounding."""
    exact = cases.random_inputs(n=24, width=8, requires_grad=True)
    low = cases.replace(
        exact,
        {
            name: x.detach().to(dtype).requires_grad_()
            for name, x in cases.differentiable(exact).items()
        },
    )
    same = cases.replace(  # the rounded inputs, in float64
        exact,
        {
            name: x.detach().double().requires_grad_()
            for name, x in cases.differentiable(low).items()
        },
    )

    def run(inputs, backend):
        leaves = cases.differentiable(inputs)
        output = backend(**inputs, is_causal=True, seed=1)
        grads = torch.autograd.grad(output.double().square().sum(), list(leaves.values()))
        return {"output": output.detach(), **dict(zip(leaves, grads, strict=True))}

    truth = run(same, cases.EXACT)
    reference = run(low, cases.EXACT)
    for name, actual in run(low, backend).items():
        error = (actual.double() - truth[name]).abs().max()
        allowed = (reference[name].double() - truth[name]).abs().max()
        rounding = torch.finfo(dtype).eps * truth[name].abs().max()
        assert error <= 2 * allowed + rounding, name
        # and the reference itself is as good as its dtype and the conditioning of K allow
        assert allowed <= 200 * rounding, name


def test_kernels_have_defaults(backend):
    """No mixture is an equal one of what is there, no concentration is 2."""
    inputs = cases.random_inputs(gate=False)
    kernels = inputs["covariance"].kernels
    explicit = Kernels(
        kernels.features,
        torch.tensor([2.0, 2.0], dtype=torch.float64),
        torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64),
        None,
        kernels.cooccurrence,
    )
    defaults = Kernels(kernels.features, cooccurrence=kernels.cooccurrence)
    outputs = [
        backend(
            inputs["location"], inputs["value"], inputs["covariance"]._replace(kernels=k),
            inputs["shape"], seed=1
        )
        for k in (explicit, defaults)
    ]  # fmt: skip
    torch.testing.assert_close(*outputs, **backend.tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch(backend, mode):
    """What the sequences share has a gradient all the same: zero."""
    x = cases.random_inputs(batch=0, bias=True, requires_grad=True)
    leaves = cases.differentiable(x)
    output = backend(**x, mode=mode, seed=1)
    assert output.shape == (0, 2, 6, 4)
    output.sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is None or not leaf.grad.any(), name
    unused = mode == "location"
    assert (leaves["covariance.kernels.concentration"].grad is None) == unused
