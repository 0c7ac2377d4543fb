"""What PyTorch may do with the operator: opcheck, compile, vmap, per-sample gradients."""

import pytest
import torch
import torch.utils.checkpoint
from support import cases
from support.slow import slow

from rka_fast.ops import api
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments
from rka_fast.ops.library import backward_op, forward_op


def schema_arguments(backend, **changes):
    """The positional arguments with which `kernelized_attention` calls the operator."""
    inputs = cases.random_inputs(heads=1, dtype=torch.float32, requires_grad=True, **changes)
    seen = []
    original, api.library.call = api.library.call, lambda *a: seen.append(a) or a[2]
    try:
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, 0] = True
        backend(**inputs, is_causal=True, key_padding_mask=padding, seed=1)
    finally:
        api.library.call = original
    return tuple(
        x.detach().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x
        for x in seen[0]
    )


@pytest.mark.parametrize("changes", [{}, {"gate": False, "cooccurrence": False}, {"spread": False}])
def test_opcheck(backend, changes):
    if not changes.get("spread", True):
        a = schema_arguments(backend)
        torch.library.opcheck(forward_op, (*Arguments(*a[:3], causal=True), backend.name))
        return
    arguments = schema_arguments(backend, **changes)
    torch.library.opcheck(forward_op, arguments)
    detached = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments)
    grad = torch.randn_like(arguments[2])
    needs = [i for i in range(len(DIFFERENTIABLE)) if arguments[i] is not None]
    torch.library.opcheck(
        backward_op,
        (grad, needs, *detached),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_gradient_without_effect_is_laid_out_as_the_compiler_expects(backend):
    """The mean without a shape does not depend on the covariance; its features are transposed."""
    a = list(schema_arguments(backend, shape=False))
    features, mode = (Arguments._fields.index(name) for name in ("features", "mode"))
    a = [x.detach() if isinstance(x, torch.Tensor) else x for x in a]
    a[features] = a[features].mT.contiguous().mT
    a[mode] = "mean"
    (grad,) = backward_op(torch.ones_like(a[2]), [features], *a)
    assert grad.is_contiguous() and not grad.any()


@pytest.mark.parametrize("compiler", [slow("aot_eager"), "inductor"])
def test_compiles_without_a_break(backend, compiler):
    inputs = cases.random_inputs(dtype=torch.float32, n=9, requires_grad=True)
    leaves = list(cases.differentiable(inputs).values())

    def step(seed):
        output = backend(**inputs, is_causal=True, seed=seed)
        return output.square().sum()

    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    seed = torch.tensor(3)
    torch.testing.assert_close(compiled(seed), step(seed))
    actual = torch.autograd.grad(compiled(seed), leaves)
    expected = torch.autograd.grad(step(seed), leaves)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_the_seed_of_a_compiled_call_is_drawn_anew(backend):
    inputs = cases.random_inputs(dtype=torch.float32)
    compiled = torch.compile(lambda: backend(**inputs), fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(), compiled())


def test_vmap_is_the_loop(backend):
    """Each slice is a call of its own with the same seed."""
    inputs = cases.random_inputs()
    stacked = torch.stack([inputs["value"], 2 * inputs["value"], -inputs["value"]])

    def call(value):
        return backend(**{**inputs, "value": value}, seed=1)

    actual = torch.func.vmap(call)(stacked)
    expected = torch.stack([call(v) for v in stacked])
    torch.testing.assert_close(actual, expected)


def test_vmap_over_the_gradient_is_the_loop(backend):
    arguments = schema_arguments(backend)
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    grads = torch.randn(3, *detached[2].shape, device=backend.device)

    def pull(grad):
        needs = [Arguments._fields.index(name) for name in ("query", "value", "features")]
        return tuple(backward_op(grad, needs, *detached))

    actual = torch.func.vmap(pull)(grads)
    expected = [torch.stack(x) for x in zip(*(pull(g) for g in grads), strict=True)]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_autocast_does_not_round_the_covariance(backend):
    """Nearly equal items: rounded to bfloat16 inside, their K could not be factored."""
    inputs = cases.random_inputs(
        heads=1, dtype=torch.float32, n=40, feature_width=16, requires_grad=True
    )
    kernels = inputs["covariance"].kernels
    close = (kernels.features[:, :1] + 1e-3 * kernels.features).detach().requires_grad_()
    inputs = cases.replace(inputs, {"covariance.kernels.features": close})
    plain = backend(**inputs, is_causal=True, seed=1)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        output = backend(**inputs, is_causal=True, seed=1)
        output.square().sum().backward()
    assert torch.equal(output, plain)
    assert close.grad.isfinite().all()


def test_checkpointing_sees_the_same_noise(backend):
    inputs = cases.random_inputs(requires_grad=True)
    value = inputs["value"]

    def call(value):
        return backend(**{**inputs, "value": value}, dropout_p=0.2)

    torch.manual_seed(5)
    plain = torch.autograd.grad(call(value).square().sum(), value)[0]
    torch.manual_seed(5)
    output = torch.utils.checkpoint.checkpoint(call, value, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(output.square().sum(), value)[0], plain)


def test_a_captured_graph_replays_on_other_inputs(backend):
    if backend.device != "cuda" or backend.name == "reference":
        pytest.skip("needs a CUDA device, and kernels of our own")
    arguments = [
        x.detach() if isinstance(x, torch.Tensor) else x for x in schema_arguments(backend)
    ]
    needs = [i for i in range(len(DIFFERENTIABLE)) if arguments[i] is not None]

    def both():
        output = forward_op(*arguments)
        return [output, *backward_op(torch.ones_like(output), needs, *arguments)]

    both()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    arguments[2].mul_(2)
    arguments[Arguments._fields.index("seed")].fill_(9)
    graph.replay()
    torch.cuda.synchronize()
    for actual, expected in zip(captured, both(), strict=True):
        assert torch.equal(actual, expected)


def one_sequence(backend, mode="sample", **changes):
    """A function of value, location.query and features (small), and those in float64."""
    inputs = cases.random_inputs(batch=1, n=4, width=2, feature_width=3, **changes)
    names = ("value", "location.query", "covariance.kernels.features")
    leaves = (inputs["value"], inputs["location"].query, inputs["covariance"].kernels.features)

    def call(*leaves):
        return backend(
            **cases.replace(inputs, dict(zip(names, leaves, strict=True))),
            seed=1, is_causal=True, mode=mode, activation="tanh",
        )  # fmt: skip

    return call, leaves


MODES = ("sample", "mean")


@pytest.mark.parametrize("mode", MODES)
def test_func_gradients_are_autograds(backend, mode):
    call, leaves = one_sequence(backend, mode)

    def loss(*leaves):
        return call(*leaves).square().sum()

    wanted = [x.clone().requires_grad_() for x in leaves]
    expected = torch.autograd.grad(loss(*wanted), wanted)
    actual = torch.func.grad(loss, argnums=(0, 1, 2))(*leaves)
    pulled = torch.func.vjp(loss, *leaves)[1](torch.ones((), dtype=torch.float64))
    for a, p, e in zip(actual, pulled, expected, strict=True):
        torch.testing.assert_close(a, e, **backend.tolerance)
        torch.testing.assert_close(p, e, **backend.tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_func_jacobians_agree_in_both_directions(backend, mode):
    """Reverse mode is the backend's, forward mode the reference's, the third autograd's rows."""
    call, leaves = one_sequence(backend, mode)
    reverse = torch.func.jacrev(call, argnums=(0, 1, 2))(*leaves)
    forward = torch.func.jacfwd(call, argnums=(0, 1, 2))(*leaves)
    rows = torch.autograd.functional.jacobian(call, leaves)
    for r, f, e in zip(reverse, forward, rows, strict=True):
        assert f.abs().max() > 0.01
        torch.testing.assert_close(r, e, **backend.tolerance)
        torch.testing.assert_close(f, e, **backend.tolerance)


def test_func_jvp_linearize_and_dual_numbers(backend):
    call, leaves = one_sequence(backend)
    tangents = tuple(map(torch.randn_like, leaves))
    columns = torch.autograd.functional.jacobian(call, leaves)
    expected = sum(
        torch.tensordot(c, t, dims=t.dim()) for c, t in zip(columns, tangents, strict=True)
    )
    output, pushed = torch.func.jvp(call, leaves, tangents)
    torch.testing.assert_close(output, call(*leaves))
    torch.testing.assert_close(pushed, expected, **backend.tolerance)
    linear = torch.func.linearize(call, *leaves)[1]
    torch.testing.assert_close(linear(*tangents), expected, **backend.tolerance)
    with torch.autograd.forward_ad.dual_level():
        duals = map(torch.autograd.forward_ad.make_dual, leaves, tangents)
        dual = torch.autograd.forward_ad.unpack_dual(call(*duals)).tangent
    torch.testing.assert_close(dual, expected, **backend.tolerance)


def test_func_gradients_of_each_sample(backend):
    """vmap(grad): what optimisers with per-sample gradients do."""
    call, (value, query, features) = one_sequence(backend)
    values = torch.stack([value, -value, 2 * value])
    queries = torch.stack([query, 2 * query, -query])

    def loss(value, query):
        return call(value, query, features).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(values, queries)
    for i in range(3):
        expected = torch.func.grad(loss, argnums=(0, 1))(values[i], queries[i])
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a[i], e)


@pytest.mark.parametrize("mode", ["sample", slow("mean")])
def test_second_derivatives_are_those_of_the_formulas(backend, mode):
    call, leaves = one_sequence(backend, mode)
    leaves = tuple(x.requires_grad_() for x in leaves)
    if backend.dtype == torch.float64:
        assert torch.autograd.gradgradcheck(call, leaves, atol=1e-6)
    hessians = torch.func.hessian(lambda v, *more: call(v, *more).square().sum())(*leaves)
    (first,) = torch.autograd.grad(call(*leaves).square().sum(), leaves[:1], create_graph=True)
    rows = [torch.autograd.grad(x, leaves[0], retain_graph=True)[0] for x in first.flatten()]
    expected = torch.stack(rows).view_as(hessians)
    torch.testing.assert_close(hessians, expected, **backend.tolerance)


def test_a_second_derivative_of_a_graph_is_refused(backend):
    """The registered operator is what compiled, exported and traced programs hold."""
    arguments = schema_arguments(backend)
    output = forward_op(*arguments)
    (grad,) = torch.autograd.grad(output.square().sum(), arguments[2], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative.*eager mode"):
        grad.sum().backward()
