"""The call itself: its groups, shared heads, seeds, and lengths of zero."""

import numpy as np
import pytest
import torch
from support import cases
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rka_fast import KernelizedAttention, Location, check_counts, kernelized_attention

PLAIN = {"mode": "location", "activation": "identity"}


def test_plain_tensors_are_told_about_the_groups():
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    with pytest.raises(TypeError, match=r"location: expected rka_fast.Location\(query, key, bias"):
        kernelized_attention(q, k, v)
    with pytest.raises(TypeError, match=r"covariance: .*got Tensor.*Location\(q, k\), v"):
        kernelized_attention(Location(q, k), v, v)
    # What the message advises for plain attention.
    output = kernelized_attention(Location(q, k), v, mode="location", activation="identity")
    torch.testing.assert_close(output, scaled_dot_product_attention(q, k, v))


def test_grouped_query_heads_share_keys_and_values(backend):
    """As the same call with the keys repeated by hand; location alone as PyTorch's own."""
    inputs = cases.random_inputs(heads=4, requires_grad=True)

    def few(x):
        return x[:, ::2]

    def repeated(x):
        return few(x).repeat_interleave(2, dim=1)

    def call(change, **options):
        location, covariance, shape = (inputs[n] for n in ("location", "covariance", "shape"))
        return backend(
            location=location._replace(key=change(location.key)),
            value=change(inputs["value"]),
            covariance=covariance._replace(key=change(covariance.key)),
            shape=shape._replace(key=change(shape.key)),
            seed=1,
            **options,
        )

    torch.testing.assert_close(call(few, enable_gqa=True), call(repeated))
    leaves = list(cases.differentiable(inputs).values())
    actual = torch.autograd.grad(call(few, enable_gqa=True).square().sum(), leaves)
    expected = torch.autograd.grad(call(repeated).square().sum(), leaves)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
    q, k, v = inputs["location"].query, few(inputs["location"].key), few(inputs["value"])
    theirs = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    ours = backend(Location(q, k), v, enable_gqa=True, **PLAIN)
    torch.testing.assert_close(ours, theirs, **backend.tolerance)


def test_heads_that_do_not_divide_are_refused():
    q, k = torch.randn(1, 4, 5, 2), torch.randn(1, 3, 5, 2)
    with pytest.raises(ValueError, match="location.key: .*divisor of the queries' 4 heads"):
        kernelized_attention(Location(q, k), k, enable_gqa=True, **PLAIN)
    with pytest.raises(ValueError, match="location.query: expected 4 dimensions"):
        kernelized_attention(Location(q[0, 0, 0], k), k, enable_gqa=True, **PLAIN)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint64, np.int32, torch.tensor])
def test_any_integer_is_a_seed(backend, kind):
    inputs = cases.random_inputs()
    assert torch.equal(backend(**inputs, seed=kind(7)), backend(**inputs, seed=7))


@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
@pytest.mark.parametrize(("n", "keys"), [(3, 0), (0, 4)])
def test_a_length_of_zero_attends_to_nothing(backend, mode, n, keys):
    def new(length, width=4):
        return torch.randn(2, 2, length, width, dtype=torch.float64, requires_grad=True)

    inputs = cases.random_inputs(n=max(n, 1), keys=max(keys, 1), cooccurrence=False)
    kernels = inputs["covariance"].kernels._replace(
        features=torch.randn(2, keys, 5, dtype=torch.float64)
    )
    value = new(keys)
    output = backend(
        location=Location(new(n), new(keys), torch.zeros(1, 1, n, keys, dtype=torch.float64)),
        value=value,
        covariance=inputs["covariance"]._replace(query=new(n), key=new(keys), kernels=kernels),
        shape=inputs["shape"]._replace(query=new(n), key=new(keys)),
        mode=mode,
        seed=1,
    )
    assert output.shape == (2, 2, n, 4) and not output.any()
    assert torch.autograd.grad(output.sum(), value)[0].shape == value.shape


def test_a_memory_of_length_zero_is_as_in_multihead_attention():
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(theirs.out_proj.bias)
    ours = KernelizedAttention(8, 2, batch_first=True)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 0, 8)
    for mode in ("sample", "mean", "location"):
        for actual, expected in zip(
            ours(query, memory, memory, mode=mode), theirs(query, memory, memory), strict=True
        ):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout_p": "a"}, "dropout_p: expected a number, got str"),
        ({"dropout_p": None}, "dropout_p: expected a number, got NoneType"),
        ({"jitter": "a"}, "jitter: expected a number, got str"),
        ({"jitter": True}, "jitter: expected a number, got bool"),
        ({"is_causal": "no"}, "is_causal: expected a bool, got str"),
        ({"enable_gqa": None}, "enable_gqa: expected a bool, got NoneType"),
        ({"check_counts": 1}, "check_counts: expected a bool, got int"),
        ({"seed": True}, "seed: expected an int or a tensor of one int64, got bool"),
        ({"seed": np.array([1.0])}, "seed: expected an int or a tensor.*got ndarray"),
        ({"value": None}, "value: expected a tensor, got NoneType"),
        ({"mask": [1]}, "mask: expected a tensor, got list"),
        ({"location.query": None}, "location.query: expected a tensor, got NoneType"),
        ({"location.bias": 1.0}, "location.bias: expected a tensor, got float"),
        ({"covariance.key": None}, "covariance.key: expected a tensor, got NoneType"),
        ({"shape.query": None}, "shape.query: expected a tensor, got NoneType"),
        ({"shape.key": 1, "enable_gqa": True}, "shape.key: expected a tensor, got int"),
    ],
)
def test_arguments_of_another_type_are_named(changes, message):
    dotted = {name: x for name, x in changes.items() if "." in name}
    inputs = cases.replace(cases.random_inputs(n=3), dotted)
    with pytest.raises(TypeError, match=message):
        kernelized_attention(**inputs | {n: x for n, x in changes.items() if n not in dotted})


@pytest.mark.parametrize("shape", [(), (0,), (2, 2, 3, 0)])
def test_a_bias_of_a_wrong_shape_is_named(shape):
    inputs = cases.replace(cases.random_inputs(n=3), {"location.bias": torch.zeros(shape)})
    with pytest.raises(ValueError, match="location.bias: expected"):
        kernelized_attention(**inputs)


def test_counts_that_are_no_tensor_are_named():
    with pytest.raises(TypeError, match="cooccurrence: expected a tensor, got list"):
        check_counts([[1]])  # pyright: ignore[reportArgumentType]
