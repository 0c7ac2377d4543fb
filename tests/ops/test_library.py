"""What PyTorch may do with the operator: opcheck, compile, vmap, per-sample gradients."""

import pytest
import torch
import torch.utils.checkpoint
from support import cases

from rka_fast.ops import api
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments
from rka_fast.ops.library import backward_op, forward_op


def schema_arguments(backend, **changes):
    """The positional arguments with which `kernelized_attention` calls the operator."""
    inputs = cases.random_inputs(heads=1, dtype=torch.float32, requires_grad=True, **changes)
    seen = []
    original, api.forward_op = api.forward_op, lambda *a: seen.append(a) or a[2]
    try:
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, 0] = True
        backend(**inputs, is_causal=True, key_padding_mask=padding, seed=1)
    finally:
        api.forward_op = original
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


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
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


def test_a_second_derivative_is_refused(backend):
    inputs = cases.random_inputs(requires_grad=True)
    value = inputs["value"]
    output = backend(**inputs, seed=1)
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()
