"""The operator as PyTorch knows it: one schema, fake kernels, autograd and vmap for every backend.

`torch.ops.rka_fast.kernelized_attention` is a pure function of its arguments: the seed is one of
them, so compilation, checkpointing and the backward pass all see the same noise.

Eager calls go through the functions below, compiled, exported and traced ones see the operator with
the same rules registered: Dynamo takes no autograd.Function with a jvp, TorchScript saves none, and
`torch.func` takes nothing else. Derivatives above the first, and forward-mode ones, are those of
the reference's formulas, which PyTorch can differentiate as often as it is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import register_flop_formula

from rka_fast.ops import check, flops
from rka_fast.ops.arguments import (
    DIFFERENTIABLE,
    SCHEMA,
    TENSORS,
    Arguments,
    each_draw,
    output_shape,
)
from rka_fast.ops.backends import BACKENDS, Backend
from rka_fast.ops.reference.attention import attention

_ARGUMENTS = f"{SCHEMA}, str backend"

fragment = torch.library.Library("rka_fast", "FRAGMENT")
for _definition in (
    f"kernelized_attention({_ARGUMENTS}) -> Tensor",
    f"kernelized_attention_backward(Tensor grad, int[] needs, {_ARGUMENTS}) -> Tensor[]",
):
    fragment.define(_definition, tags=torch.Tag.pt2_compliant_tag)
forward_op = torch.ops.rka_fast.kernelized_attention.default
backward_op = torch.ops.rka_fast.kernelized_attention_backward.default


def call(*arguments: Any) -> Tensor:
    """The output for `Arguments` and the name of a backend, differentiable in every way."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore
        if torch.onnx.is_in_onnx_export() or in_plain.get():
            return _in_plain_operators(Arguments(*arguments[:-1]))
        return forward_op(*arguments)
    if torch._C._are_functorch_transforms_active():
        return Functional.apply(*arguments)
    return Eager.apply(*arguments)


in_plain: ContextVar[bool] = ContextVar("rka_fast_plain", default=False)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Programs that are exported in this block hold PyTorch's operators in place of ours."""
    token = in_plain.set(True)
    try:
        yield
    finally:
        in_plain.reset(token)


def _in_plain_operators(a: Arguments) -> Tensor:
    if a.mode == "sample" or a.dropout > 0.0:
        raise ValueError(
            f"mode {a.mode!r} with dropout_p {a.dropout:g} cannot be exported: a file draws "
            "nothing. Put the model into evaluation, model.eval(), or export inside "
            "rka_fast.use_draws(model, 'mean')"
        )
    with own_precision(a.query):
        return attention(a)


def _forward(*arguments: Any) -> Tensor:
    a, backend = _checked(arguments)
    if _is_empty(a):
        return a.value.new_zeros(output_shape(a))
    with own_precision(a.query):
        if a.draws is None or backend.shares_draws:
            return backend.forward(a)
        return over_draws(backend.forward, a)


def _backward(grad: Tensor, needs: list[int], *arguments: Any) -> list[Tensor]:
    a, backend = _checked(arguments)
    if a.draws is not None or not backend.checks_calls:
        check.gradient(grad, needs, a)
    if _is_empty(a):  # a shared argument has a gradient all the same
        given: Any = a
        return [given[i].new_zeros(given[i].shape) for i in needs]
    with own_precision(grad):
        if a.draws is None:
            return backend.backward(grad, needs, a)
        parts = [backend.backward(g, needs, x) for g, x in zip(grad, each_draw(a), strict=True)]
        return [torch.stack(x).sum(0) for x in zip(*parts, strict=True)]


def over_draws(function: Callable[[Arguments], Tensor], a: Arguments) -> Tensor:
    """The output of a function of single draws, for a call of one or of several."""
    return function(a) if a.draws is None else torch.stack([function(x) for x in each_draw(a)])


def _checked(arguments: Sequence) -> tuple[Arguments, Backend]:
    """What `kernelized_attention` has checked, for those who call the operator themselves."""
    *values, name = arguments
    a = Arguments(*values)
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if a.draws is not None or not BACKENDS[name].checks_calls:
        check.call(a)
    return a, BACKENDS[name]


def _is_empty(a: Arguments) -> bool:
    return 0 in a.query.shape[:3] or 0 in a.key.shape[2:3]


def own_precision(x: Tensor) -> torch.autocast:
    """Autocast must not round what a backend computes: the covariance would lose its rank."""
    return torch.autocast(x.device.type, enabled=False)


def _fake_forward(*arguments: Any) -> Tensor:
    a = Arguments(*arguments[:-1])
    return a.value.new_empty(output_shape(a))


def _fake_backward(grad: Tensor, needs: list[int], *arguments: Any) -> list[Tensor]:
    return [arguments[i].new_empty(arguments[i].shape) for i in needs]


def _save(ctx: Any, inputs: tuple, output: Tensor | None = None) -> None:
    ctx.save_for_backward(*inputs[: len(TENSORS)])
    ctx.options = inputs[len(TENSORS) :]


def _differentiate(ctx: Any, grad: Tensor, backward: Callable = backward_op) -> tuple:
    needs = list(compress(range(len(DIFFERENTIABLE)), ctx.needs_input_grad))
    inputs = (*ctx.saved_tensors, *ctx.options)  # checkpointing lets them be unpacked once
    return placed(needs, backward(grad, needs, *inputs), len(inputs))


def placed(positions: Sequence[int], values: Sequence, length: int) -> tuple:
    """A tuple of `length` with the values at their positions and None elsewhere."""
    result = [None] * length
    for i, value in zip(positions, values, strict=True):
        result[i] = value
    return tuple(result)


class Eager(torch.autograd.Function):
    """The operator for eager autograd, in reverse and in forward mode."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save(ctx, inputs)
        ctx.save_for_forward(*inputs[: len(TENSORS)])
        with torch._C._AutoDispatchBelowAutograd():  # its own rules would cost a call of Python
            return forward_op(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _differentiate(ctx, grad, _backward_with_gradient)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        moved = [i for i in range(len(DIFFERENTIABLE)) if tangents[i] is not None]
        function, primals = _reference((*ctx.saved_tensors, *ctx.options), moved)
        return push(function, primals, tuple(tangents[i] for i in moved))


class Functional(Eager):
    """The operator for `torch.func`, which asks for these forms and pays for them in each call."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return forward_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs)
        ctx.save_for_forward(*inputs[: len(TENSORS)])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(Functional.apply, info, in_dims, arguments)


class FunctionalBackward(torch.autograd.Function):
    """The gradients of the operator, with a gradient of their own through the reference."""

    @staticmethod
    def forward(grad: Tensor, needs: list[int], *arguments: Any) -> tuple[Tensor, ...]:
        return tuple(backward_op(grad, needs, *arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        grad, ctx.needs, *arguments = inputs
        ctx.save_for_backward(grad, *arguments[: len(TENSORS)])
        ctx.save_for_forward(grad, *arguments[: len(TENSORS)])
        ctx.options = arguments[len(TENSORS) :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        moved = [i for i in range(len(DIFFERENTIABLE)) if ctx.needs_input_grad[i + 2]]
        function, primals = _reference_gradients(ctx, moved)
        grad, *others = torch.func.vjp(function, *primals)[1](grads)
        return grad, None, *placed(moved, others, len(ctx.needs_input_grad) - 2)

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, _: Any, *tangents: Any) -> tuple[Tensor, ...]:
        moved = [i for i in range(len(DIFFERENTIABLE)) if tangents[i] is not None]
        function, primals = _reference_gradients(ctx, moved)
        grad = torch.zeros_like(primals[0]) if grad is None else grad
        return push(function, primals, (grad, *(tangents[i] for i in moved)))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(FunctionalBackward.apply, info, in_dims, arguments)


def _backward_with_gradient(*arguments: Any) -> Sequence[Tensor]:
    """The gradients, differentiable themselves where somebody builds a graph of them."""
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return FunctionalBackward.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return backward_op(*arguments)


def _reference(inputs: Sequence, moved: list[int]) -> tuple[Callable, tuple[Tensor, ...]]:
    """The reference as a function of the inputs at the positions `moved`, and those inputs."""

    def function(*primals: Tensor) -> Tensor:
        given = list(inputs[:-1])
        for i, x in zip(moved, primals, strict=True):
            given[i] = x
        a = Arguments(*given)
        with own_precision(a.query):
            return over_draws(attention, a)

    return function, tuple(inputs[i] for i in moved)


def _reference_gradients(ctx: Any, moved: list[int]) -> tuple[Callable, tuple[Tensor, ...]]:
    """The gradients `ctx.needs` as a function of grad and the inputs `moved`; and those."""
    grad, *tensors = ctx.saved_tensors
    inputs = (*tensors, *ctx.options)

    def gradients(grad: Tensor, *primals: Tensor) -> tuple[Tensor, ...]:
        given = list(inputs)
        for i, x in zip(moved, primals, strict=True):
            given[i] = x
        function, primals = _reference(given, ctx.needs)
        return torch.func.vjp(function, *primals)[1](grad)

    return gradients, (grad, *(inputs[i] for i in moved))


def push(function: Callable, primals: tuple, tangents: tuple) -> Any:
    """The product of the Jacobian and the tangents, by reverse mode twice: levels nest freely."""
    output, pull, *_ = torch.func.vjp(function, *primals)
    zeros = tree_map(torch.zeros_like, output)
    return torch.func.vjp(pull, zeros)[1](tangents)[0]


def _one_by_one(op: Callable, info: Any, in_dims: tuple, arguments: tuple) -> tuple[Any, Any]:
    """vmap as the loop it stands for: each slice is an operator call of its own, same noise."""

    def slice_of(x: Any, dim: int | None, i: int) -> Any:
        return x.select(dim, i) if isinstance(dim, int) else x

    calls = [
        op(*(slice_of(x, dim, i) for x, dim in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls), 0
    stacked = [torch.stack(x) for x in zip(*calls, strict=True)]
    return (stacked, [0] * len(stacked)) if isinstance(calls[0], list) else (
        tuple(stacked), (0,) * len(stacked))  # fmt: skip


def refuse(ctx: Any, *grads: Any) -> tuple:
    """In the place of the derivative that a registered backward operator does not have."""
    raise RuntimeError(
        "rka_fast: a second derivative of a compiled, exported or traced call is not "
        "supported; call the function or module in eager mode, where it is computed by the "
        "reference"
    )


def register(
    op: Any, implementation: Any, fake: Any, differentiate: Any, setup_context: Any
) -> None:
    """The operator's implementation, its rules for tracing and autograd, and vmap as a loop."""
    name = op._schema.name
    fragment.impl(op.name().split("::")[1], implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=fragment)
    torch.library.register_autograd(name, differentiate, setup_context=setup_context, lib=fragment)
    torch.library.register_vmap(
        name, lambda info, dims, *arguments: _one_by_one(op, info, dims, arguments), lib=fragment
    )


register(forward_op, _forward, _fake_forward, _differentiate, _save)
register(backward_op, _backward, _fake_backward, refuse, None)
register_flop_formula(torch.ops.rka_fast.kernelized_attention)(flops.of_forward)
register_flop_formula(torch.ops.rka_fast.kernelized_attention_backward)(flops.of_backward)
