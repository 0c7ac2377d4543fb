"""Several draws in one call: those of single calls, for every backend."""

import numpy as np
import pytest
import torch
from support import cases, literal
from support.agreement import close
from support.subjects import Subject

from rka_fast import kernelized_attention
from rka_fast.ops.api import relation_factor
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments
from rka_fast.ops.library import backward_op, forward_op
from rka_fast.verification import bounds

SEEDS = torch.tensor([11, -5, 2**62, 11])
PADDING = torch.tensor([[True, False, False, False, False, False], [False] * 5 + [True]])


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (torch.float64, {}),
        (torch.float16, {"dropout_p": 0.4, "is_causal": True, "key_padding_mask": PADDING}),
        (torch.float64, {"mode": "mean", "dropout_p": 0.4}),
        (torch.float64, {"mask": torch.tensor([[False] * 6, *[[True] * 6] * 5])}),
    ],
    ids=["plain", "everything", "mean", "mask"],
)
def test_each_is_bit_for_bit_that_of_a_call_with_its_seed(backend, dtype, changes):
    inputs = cases.random_inputs(n=6, dtype=dtype)
    several = backend(**inputs, draws=4, seed=SEEDS, **changes)
    assert several.shape == (4, 2, 2, 6, 4)
    for draw, seed in zip(several, SEEDS.tolist(), strict=True):
        assert torch.equal(draw, backend(**inputs, seed=seed, **changes))
    assert not torch.equal(several[0], several[1])
    strided = torch.stack((SEEDS, 1 - SEEDS), 1)[:, 0]
    assert torch.equal(backend(**inputs, draws=4, seed=strided, **changes), several)


@pytest.mark.parametrize("name", ["reference", "cpp"])
def test_ready_relations_and_normal_logits(name):
    Subject(name).needs()
    inputs = cases.random_inputs(n=20)
    options = {"is_causal": True, "backend": name}
    ready = relation_factor(inputs["covariance"].kernels, **options)
    for changed in (
        {**inputs, "covariance": inputs["covariance"]._replace(kernels=ready)},
        {**inputs, "shape": None},
    ):
        several = kernelized_attention(**changed, **options, draws=4, seed=SEEDS)
        for draw, seed in zip(several, SEEDS.tolist(), strict=True):
            assert torch.equal(draw, kernelized_attention(**changed, **options, seed=seed))


def test_a_single_seed_stands_for_steps_from_it(backend):
    """Against the operator in loops of Python, with seeds of Python's integers."""
    inputs = cases.random_inputs(n=4)
    seed = 2**63 - 7
    several = backend(**inputs, draws=3, seed=seed)
    seeds = [(seed + s * 0x9E3779B97F4A7C15) % 2**64 for s in range(3)]
    seen, present = np.ones((2, 2, 4, 4), bool), np.ones((2, 4), bool)
    for draw, each in zip(several, seeds, strict=True):
        expected = literal.evaluate(inputs, seen, present, "sample", "leaky_relu", each)
        close(draw, expected, bounds.NOISE + backend.tolerance["atol"])
    one = backend(**inputs, draws=3, seed=torch.tensor([seed]))
    assert torch.equal(one, several)


def test_without_a_seed_pytorchs_generator_gives_them(backend):
    inputs = cases.random_inputs(n=4)
    torch.manual_seed(3)
    first, second = backend(**inputs, draws=2), backend(**inputs, draws=2)
    torch.manual_seed(3)
    assert torch.equal(backend(**inputs, draws=2), first)
    assert len({x.item() for x in (*first[:, 0, 0, 0, 0], *second[:, 0, 0, 0, 0])}) == 4


def test_gradients_are_the_sums_over_the_draws(backend):
    inputs = cases.random_inputs(n=5, requires_grad=True, bias=True)
    leaves = cases.differentiable(inputs)
    weights = torch.linspace(-1, 1, 3 * 2 * 2 * 5 * 4, dtype=torch.float64).view(3, 2, 2, 5, 4)
    several = backend(**inputs, draws=3, seed=SEEDS[:3], dropout_p=0.2)
    actual = torch.autograd.grad(several, list(leaves.values()), weights)
    single = [
        torch.autograd.grad(backend(**inputs, seed=s, dropout_p=0.2), list(leaves.values()), w)
        for s, w in zip(SEEDS[:3].tolist(), weights, strict=True)
    ]
    for name, total, *parts in zip(leaves, actual, *single, strict=True):
        assert parts[0].any(), name
        size = sum(map(bounds.largest, parts))  # three roundings of sums of this size at most
        assert bounds.largest(total - sum(parts)) <= 3 * torch.finfo(backend.dtype).eps * size, name


def test_opcheck_compile_and_func(backend):
    inputs = backend.moved(cases.random_inputs(n=4))
    seen: list[Arguments] = []
    kernelized_attention(**inputs, draws=2, seed=5, backend=lambda a: seen.append(a) or a.value)
    (a,) = seen
    arguments = (*a, backend.name)
    torch.library.opcheck(forward_op, arguments)
    needs = [DIFFERENTIABLE.index("query"), DIFFERENTIABLE.index("features")]
    grad = torch.ones(2, 2, 2, 4, 4, dtype=a.query.dtype, device=a.query.device)
    torch.library.opcheck(backward_op, (grad, needs, *arguments), test_utils="test_schema")

    def call(query):
        location = inputs["location"]._replace(query=query)
        return kernelized_attention(
            **{**inputs, "location": location}, draws=2, seed=5, backend=backend.name
        )

    query = inputs["location"].query
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(query), call(query))
    tangent = torch.ones_like(query)
    _, moved = torch.func.jvp(call, (query,), (tangent,))
    # v' J' w = w' J v: the reference's forward mode against the backend's own backward pass.
    weights = torch.linspace(-1, 1, moved.numel()).to(moved).view(moved.shape)
    (pulled,) = torch.func.vjp(call, query)[1](weights)
    error = backend.tolerance["atol"] * (weights.abs().sum() + tangent.abs().sum())
    assert ((pulled * tangent).sum() - (moved * weights).sum()).abs() <= error


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"draws": 0}, ValueError, "draws: expected at least 1, got 0"),
        ({"draws": 2.0}, TypeError, "draws: expected an int or None, got float"),
        ({"draws": True}, TypeError, "draws: expected an int or None, got bool"),
        ({"draws": 3, "mode": "mean"}, ValueError, "draws: expected None in mode 'mean'.*got 3"),
        ({"draws": 3, "seed": SEEDS}, ValueError, r"seed: expected .* 3 of them.*int64 of shape"),
        ({"seed": SEEDS}, ValueError, r"seed: expected one element, got shape \(4,\)"),
        ({"draws": 4, "seed": SEEDS.int()}, TypeError, "seed: expected.*int64, got torch.int32"),
    ],
)
def test_refusals(changes, error, match):
    with pytest.raises(error, match=match):
        kernelized_attention(**cases.random_inputs(n=4), **changes)
