"""Ready-made relations: one factor for many calls, with the results of the single calls."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from support import cases, literal
from support.agreement import kept
from support.slow import slow
from support.subjects import Subject

from rka_fast import (
    KernelizedAttention,
    Kernels,
    RelationFactor,
    kernelized_attention,
    relation_factor,
)
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments, Relations
from rka_fast.ops.backends import BACKENDS, RELATION_BACKENDS
from rka_fast.ops.relations import backward_op, forward_op
from rka_fast.verification import bounds

NAMES = [name for name in RELATION_BACKENDS if not BACKENDS[name].why_not(None)]
N = 13


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def masks(kind):
    """Options of both functions, and whether calls of several heads differ in them."""
    rng = torch.Generator().manual_seed(3)
    padding = torch.zeros(2, N, dtype=torch.bool)
    padding[0, :5], padding[1, 7] = True, True
    own = torch.eye(N, dtype=torch.bool)
    return {
        "none": {},
        "causal": {"is_causal": True},
        "padding": {"is_causal": True, "key_padding_mask": padding},
        "all padding": {"key_padding_mask": padding | torch.tensor([[True], [False]])},
        "mask": {"mask": torch.rand(N, N, generator=rng) > 0.4, "key_padding_mask": padding},
        "mask of heads": {"mask": (torch.rand(2, 2, N, N, generator=rng) > 0.4) | own},
    }[kind]


KINDS = ("none", "causal", "padding", "all padding", "mask", "mask of heads")
CHANGES = ({}, {"gate": False}, {"cooccurrence": False}, {"shape": False, "cooccurrence": False})


def shared(inputs, name, options):
    """The inputs with the ready-made relations in place of the kernels."""
    kernels = inputs["covariance"].kernels
    ready = relation_factor(kernels, backend=name, **options)
    return inputs | {"covariance": inputs["covariance"]._replace(kernels=ready)}


def call(inputs, name, options, **more):
    spread = (inputs["covariance"], inputs.get("shape"))
    return kernelized_attention(
        inputs["location"], inputs["value"], *spread, seed=5, backend=name, **options, **more
    )


@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
@pytest.mark.parametrize("dtype", [slow(torch.float64), torch.float32, slow(torch.bfloat16)])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_the_bits_of_the_single_call(name, kind, changes, dtype, mode):
    inputs = cases.random_inputs(n=N, dtype=dtype, **changes)
    options = masks(kind)
    single = call(inputs, name, options, mode=mode)
    ready = call(shared(inputs, name, options), name, options, mode=mode)
    assert torch.equal(ready, single)
    if mode == "sample":
        assert not torch.equal(single, call(inputs, name, options, mode="location"))


@pytest.mark.parametrize("mode", ["sample", "mean"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_single_call(name, kind, changes, mode):
    """In float64: one sum in another order, through a factor whose inverse is below 1 / 0.01."""
    inputs = cases.random_inputs(n=N, requires_grad=True, **changes)
    leaves, options = cases.differentiable(inputs), masks(kind)
    single = call(inputs, name, options, mode=mode)
    ready = call(shared(inputs, name, options), name, options, mode=mode)
    grad = torch.randn_like(single)
    more = {"allow_unused": True, "materialize_grads": True}
    expected = torch.autograd.grad(single, list(leaves.values()), grad, **more)
    actual = torch.autograd.grad(ready, list(leaves.values()), grad, **more)
    for leaf, a, e in zip(leaves, actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10, msg=leaf)


def test_gradients_in_float32_lose_no_more_than_the_reference(name):
    within_budget(Subject(name), {"is_causal": True}, made_by=name)


def within_budget(backend, options, made_by, **more):
    """Of the single call: the call of a backend with relations made by itself or another."""
    inputs = backend.moved(cases.random_inputs(n=N, dtype=torch.float32))
    options = backend.moved(options)

    def ready(*, backend, **inputs):
        return call(shared(inputs, made_by, options), backend, options, **more)

    with patch.object(bounds, "kernelized_attention", ready):
        actual = bounds.evaluate(inputs, backend.name)
    kept(bounds.against(actual, inputs, seed=5, **options, **more))


@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
@pytest.mark.parametrize("kind", ["padding", "mask of heads"])
def test_every_backend_takes_what_the_reference_makes(backend, kind, mode):
    """The gradients go on through the factor to what it is made of."""
    within_budget(backend, masks(kind), made_by="reference", mode=mode, dropout_p=0.1)


@pytest.mark.parametrize("shape", [True, False])
def test_the_mean_needs_no_factor(backend, shape):
    """The registered operator takes a correlation alone, and gives its gradient."""
    x = cases.random_inputs(n=N, shape=shape)
    spread, kernels = x["covariance"], x["covariance"].kernels
    rows = {"shape_query": x["shape"].query, "shape_key": x["shape"].key} if shape else {}
    a = backend.moved(Arguments(
        x["location"].query, x["location"].key, x["value"], scale_query=spread.query,
        scale_key=spread.key, **rows, mode="mean",
        correlation=relation_factor(kernels, backend="reference").correlation,
    ))  # fmt: skip
    operator, given = BACKENDS[backend.name], a._replace(factor=torch.full_like(a.correlation, 7.0))
    output = operator.forward(a)
    assert torch.equal(output, operator.forward(given))
    needs = [DIFFERENTIABLE.index("correlation")]
    (grad,) = operator.backward(torch.ones_like(output), needs, a)
    assert torch.equal(grad, *operator.backward(torch.ones_like(output), needs, given))
    assert grad.count_nonzero() == (grad.numel() if shape else 0)


def test_two_calls_share_one_factor(name):
    """Output and gradients of the sum are the sums of those of single calls."""
    options = masks("padding")
    inputs = cases.random_inputs(n=N, requires_grad=True)
    leaves = list(cases.differentiable(inputs).values())
    ready = shared(inputs, name, options)

    def both(inputs):
        """A block in mode sample and one in mode mean, on twice the value."""
        twice = inputs | {"value": 2 * inputs["value"]}
        return call(inputs, name, options) + call(twice, name, options, mode="mean")

    together, apart = both(ready), both(inputs)
    assert torch.equal(together, apart)
    grads = [torch.autograd.grad(x.square().sum(), leaves) for x in (together, apart)]
    for a, e in zip(*grads, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_ready_relations_are_what_they_are_called(name):
    kernels = cases.random_inputs(n=N)["covariance"].kernels
    options = masks("padding")
    k, factor, prior = relation_factor(kernels, backend=name, **options)
    gone = options["key_padding_mask"]
    torch.testing.assert_close(k, k.mT, rtol=0, atol=1e-15)
    assert torch.equal(factor, factor.tril())
    assert (k.diagonal(dim1=1, dim2=2) == 1).all()
    torch.testing.assert_close(factor @ factor.mT, k, rtol=0, atol=1e-14)
    alone = torch.eye(N, dtype=k.dtype).expand_as(k)
    assert torch.equal(k[gone], alone[gone]) and torch.equal(factor[gone], alone[gone])
    for b in range(2):
        for t in range(N):
            seen = [j for j in range(t + 1) if not gone[b, j]]
            expected = literal.prior(kernels.cooccurrence[b].numpy(), t, seen)
            if not gone[b, t]:
                np.testing.assert_allclose(prior[b, 0, t], expected, rtol=0, atol=1e-14)
            assert not prior[b, 0, t, t + 1 :].any() and not prior[b, 0, t, gone[b]].any()
    assert relation_factor(kernels._replace(cooccurrence=None), backend=name).prior is None


def test_the_last_queries_take_the_last_rows_of_the_prior(name):
    inputs = cases.random_inputs(n=N)
    ready = shared(inputs, name, {"is_causal": True})
    every = call(ready, name, {"is_causal": True})
    covariance, shape, rows = ready["covariance"], ready["shape"], slice(N - 4, N)
    kernels = covariance.kernels._replace(prior=covariance.kernels.prior[:, :, rows])
    last = kernelized_attention(
        ready["location"]._replace(query=ready["location"].query[:, :, rows]), ready["value"],
        covariance._replace(query=covariance.query[:, :, rows], kernels=kernels),
        shape._replace(query=shape.query[:, :, rows]), is_causal=True, seed=5, backend=name,
        row_offset=N - 4,
    )  # fmt: skip
    torch.testing.assert_close(last, every[:, :, rows], rtol=1e-12, atol=1e-12)


def schema_arguments(name, **changes):
    kernels = cases.random_inputs(n=5, **changes)["covariance"].kernels
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[0, :2] = True
    kernels = Kernels(*(x if x is None else x.clone().requires_grad_() for x in kernels))
    counts = kernels.cooccurrence
    counts = None if counts is None else counts.detach()
    relations = Relations(*kernels[:4], counts, padding=padding, causal=True)
    return (*relations, name)


@pytest.mark.parametrize("changes", [{}, {"gate": False, "cooccurrence": False}])
def test_opcheck(name, changes):
    arguments = schema_arguments(name, **changes)
    torch.library.opcheck(forward_op, arguments)
    detached = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments)
    grads = (torch.randn(2, 5, 5, dtype=torch.float64), torch.randn(2, 5, 5, dtype=torch.float64))
    needs = [i for i in range(4) if arguments[i] is not None]
    utils = ("test_schema", "test_faketensor")
    for pair in (grads, (None, grads[1]), (grads[0], None)):
        torch.library.opcheck(backward_op, (*pair, needs, *detached), test_utils=utils)


def test_derivatives_of_every_kind(name):
    inputs = cases.random_inputs(batch=1, n=4, width=2, feature_width=3)
    kernels = inputs["covariance"].kernels
    given = (kernels.features, kernels.concentration.detach(), kernels.gate)

    def both(features, concentration, gate):
        x = kernels._replace(features=features, concentration=concentration, gate=gate)
        return relation_factor(x, is_causal=True, backend=name)[:2]

    leaves = tuple(x.clone().requires_grad_() for x in given)
    assert torch.autograd.gradcheck(both, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(both, leaves)

    def loss(*leaves):
        k, factor = both(*leaves)
        return (k**3).sum() + (factor**3).sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    for a, e in zip(torch.func.grad(loss, argnums=(0, 1, 2))(*given), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_compiles_without_a_break(name):
    inputs = cases.random_inputs(n=9, dtype=torch.float32, requires_grad=True)
    leaves, options = list(cases.differentiable(inputs).values()), {"is_causal": True}

    def step():
        return call(shared(inputs, name, options), name, options).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), step())
    for a, e in zip(
        torch.autograd.grad(compiled(), leaves), torch.autograd.grad(step(), leaves), strict=True
    ):
        torch.testing.assert_close(a, e)


def test_the_module_takes_them(name):
    module = KernelizedAttention(8, 2, batch_first=True, backend=name)
    x = torch.randn(2, N, 8)
    counts = torch.ones(2, N, N) + torch.eye(N)
    padding = masks("padding")["key_padding_mask"]
    kernels = module.kernels(x, None, counts)
    options = {"is_causal": True, "key_padding_mask": padding}
    ready = relation_factor(kernels, backend=name, **options)
    for mode in ("sample", "mean"):
        outputs = [
            module(x, x, x, kernels=k, mode=mode, seed=1, need_weights=False, **options)[0]
            for k in (kernels, ready)
        ]
        assert torch.equal(*outputs)


def test_wrong_relations_are_named(name):
    inputs = cases.random_inputs(n=N)
    kernels = inputs["covariance"].kernels
    ready = relation_factor(kernels, backend=name)

    def refused(error, match, **changes):
        other = inputs["covariance"]._replace(kernels=ready._replace(**changes))
        with pytest.raises(error, match=match):
            call(inputs | {"covariance": other}, name, {})

    refused(ValueError, r"kernels\.correlation: expected shape \(2, 13, 13\)",
            correlation=ready.correlation[:, :5])  # fmt: skip
    refused(ValueError, r"kernels\.factor: expected shape", factor=ready.factor[0])
    refused(ValueError, r"kernels\.prior: expected a shape broadcastable", prior=ready.factor)
    refused(TypeError, r"kernels\.factor: expected a tensor", factor=None)
    refused(TypeError, r"kernels\.prior: expected a float", prior=ready.prior.long())
    refused(TypeError, r"kernels\.correlation: expected a float", correlation=ready[0].long())
    with pytest.raises(TypeError, match=r"kernels: expected rka_fast\.Kernels"):
        relation_factor(ready, backend=name)
    with pytest.raises(ValueError, match="features: expected 3 dimensions"):
        relation_factor(kernels._replace(features=kernels.features[0]), backend=name)
    with pytest.raises(ValueError, match=r"cooccurrence: expected shape \(2, 13, 13\)"):
        relation_factor(kernels._replace(cooccurrence=ready.factor[:, 1:]), backend=name)
    with pytest.raises(ValueError, match="jitter: expected a positive number"):
        relation_factor(kernels, jitter=0.0, backend=name)
    with pytest.raises(TypeError, match="jitter: expected a number, got str"):
        relation_factor(kernels, jitter="small", backend=name)  # pyright: ignore
    with pytest.raises(TypeError, match="is_causal: expected a bool, got str"):
        relation_factor(kernels, is_causal="x", backend=name)  # pyright: ignore
    with pytest.raises(ValueError, match="mask: expected a shape broadcastable"):
        relation_factor(kernels, mask=torch.ones(N, 3, dtype=torch.bool), backend=name)
    with pytest.raises(ValueError, match="key_padding_mask: expected shape"):
        relation_factor(kernels, key_padding_mask=torch.ones(2, 3, dtype=torch.bool), backend=name)


def test_the_operators_refuse_what_does_not_go_together(name):
    x, square = torch.ones(1, 1, 3, 2), torch.eye(3)[None]
    spread = {"scale_query": x, "scale_key": x, "mode": "sample", "seed": torch.tensor(1)}
    forward = torch.ops.rka_fast.kernelized_attention

    def refused(match, **more):
        with pytest.raises((ValueError, RuntimeError), match=match):
            forward(*Arguments(x, x, x, **(spread | more)), name)

    forward(*Arguments(x, x, x, **spread, correlation=square, factor=square), name)
    refused("factor", correlation=square)
    refused("correlation", factor=square)
    refused("features: expected", correlation=square, factor=square, features=x[0])
    arguments = [y.detach() if isinstance(y, torch.Tensor) else y for y in schema_arguments(name)]
    good = torch.zeros(2, 5, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs"):
        backward_op(good, good, [4], *arguments)
    with pytest.raises(ValueError, match="d_factor: expected shape"):
        backward_op(good, good[:1], [0], *arguments)
    with pytest.raises(ValueError, match="backend: expected one of cpp, reference"):
        forward_op(*arguments[:-1], "triton")


def test_the_relations_are_fields_of_the_arguments():
    kinds = Arguments.__annotations__
    assert all(name in kinds for name in Relations._fields)
    assert Kernels._fields == Relations._fields[: len(Kernels._fields)]
    assert set(RelationFactor._fields) <= set(kinds)
