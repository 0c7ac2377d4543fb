"""The operator on every backend against literal loops in float64, and the promises it makes."""

import numpy as np
import pytest
import torch
from support import cases
from support.agreement import agrees, check_gradients, equals_literal, kept
from support.slow import slow
from support.subjects import EXACT

from rka_fast import Covariance, Kernels, kernelized_attention
from rka_fast.ops.arguments import ACTIVATIONS, MODES
from rka_fast.ops.reference.attention import attention
from rka_fast.verification import bounds


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
    options = {"mode": mode, "seed": 2**40 + 5, "dropout_p": 0.3}
    equals_literal(backend, inputs, allowed, present, options, **arguments)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("missing", ["", "cooccurrence", "gate", "shape", "cooccurrence gate"])
def test_activations_and_missing_pieces(backend, activation, missing):
    inputs = cases.random_inputs(**{name: False for name in missing.split()})
    arguments, allowed, present = masks("causal padding", 2, 2, 6)
    options = {"activation": activation, "seed": 3}
    equals_literal(backend, inputs, allowed, present, options, **arguments)


def test_more_keys_than_queries(backend):
    inputs = cases.random_inputs(n=3, keys=7, value_width=9, cooccurrence=False)
    allowed, present = np.ones((2, 2, 3, 7), bool), np.ones((2, 7), bool)
    equals_literal(backend, inputs, allowed, present, {"seed": 3})


@pytest.mark.parametrize("mode", ["sample", slow("mean"), slow("location")])
@pytest.mark.parametrize("kind", ["causal padding", slow("head mask")])
def test_gradients_of_every_input(backend, mode, kind):
    """Float64 gradcheck; tanh, because the others have a kink that finite differences may hit."""
    inputs = cases.random_inputs(n=4, width=2, feature_width=3, bias=True, requires_grad=True)
    arguments, _, _ = masks(kind, 2, 2, 4)
    assert len(cases.differentiable(inputs)) == 13
    options = {"mode": mode, "activation": "tanh", "dropout_p": 0.2}
    check_gradients(backend, inputs, **arguments, **options)


@pytest.mark.parametrize("mode", ["sample", slow("mean")])
@pytest.mark.parametrize(
    "missing", [slow("cooccurrence"), slow("gate"), "shape", "cooccurrence gate"]
)
def test_gradients_with_missing_pieces(backend, missing, mode):
    if " " in missing:  # the weight of the only kernel has none: zero is within no budget
        backend.needs(dtype=torch.float64)
    small = {"n": 4, "width": 2, "feature_width": 3, "requires_grad": True}
    inputs = cases.random_inputs(**small, **dict.fromkeys(missing.split(), False))
    check_gradients(backend, inputs, is_causal=True, mode=mode, activation="tanh")


def test_shared_mixture_and_broadcast_bias_get_summed_gradients(backend):
    inputs = cases.random_inputs(n=4, width=3)
    mixture = torch.rand(1, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    inputs["location"] = inputs["location"]._replace(bias=bias)
    check_gradients(backend, cases.with_kernels(inputs, mixture=mixture), activation="tanh")


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
        inputs = cases.random_inputs(n=19)
        padding = torch.zeros(2, 19, dtype=torch.bool)
        padding[0, :2] = padding[1, 14:] = True
        leaves = {name: x.detach() for name, x in cases.fresh_leaves(inputs).items()}
        for name in ("location.key", "value", "covariance.key", "shape.key"):
            leaves[name].masked_fill_(padding[:, None, :, None], filling)
        leaves["covariance.kernels.features"].masked_fill_(padding[:, :, None], filling)
        leaves = {name: x.requires_grad_() for name, x in leaves.items()}
        output = backend(
            **cases.replace(inputs, leaves), key_padding_mask=padding, mode=mode, seed=4
        )
        output.square().sum().backward()
        grads = {name: x.grad for name, x in leaves.items() if x.grad is not None}
        for name in ("location.key", "value", "covariance.key", "shape.key"):
            if name in grads:
                assert grads[name][padding[:, None, :].expand(2, 2, 19)].abs().max() == 0
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
    agrees(backend, inputs, is_causal=True, seed=1)
    output = backend(**inputs, is_causal=True, seed=1)
    output.sum().backward()
    for name, leaf in cases.differentiable(inputs).items():
        assert leaf.grad.isfinite().all(), name
    if backend == EXACT:  # with which the others agree
        inputs = bounds.in_double(inputs)
        allowed, present = np.tril(np.ones((2, 2, n, n), bool)), np.ones((2, n), bool)
        equals_literal(backend, inputs, allowed, present, {"seed": 1}, is_causal=True)


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
def test_errors_of_the_reference_are_rounding_errors(dtype):
    """Of float32, as if put into it on purpose, and of its dtype where results begin and end."""
    inputs = cases.random_inputs(n=24, width=8, dtype=dtype)
    options = {"is_causal": True, "seed": 1}
    precise, eps = bounds.in_double(inputs), torch.finfo(torch.float32).eps
    exact = bounds.evaluate(precise, "reference", **options)
    budgets = bounds.movement(precise, exact, eps, **options)
    for name, x in bounds.evaluate(inputs, "reference", **options).items():
        size = bounds.largest(exact[name])
        budget = budgets[name] + torch.finfo(dtype).eps * size
        kept({name: bounds.Comparison(bounds.largest(x - exact[name]), budget, size)})


def test_a_nan_stays_where_it_is_seen(backend):
    inputs = cases.random_inputs()
    query = inputs["location"].query.clone()
    query[1, 0, 5] = torch.nan
    located = {**inputs, "location": inputs["location"]._replace(query=query)}
    output = backend(**located, seed=1)
    assert output[1, 0, 5].isnan().all()
    output[1, 0, 5] = 0
    assert not output.isnan().any()


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
