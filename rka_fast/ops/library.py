"""The operator as PyTorch knows it: one schema, fake kernels, autograd and vmap for every backend.

`torch.ops.rka_fast.kernelized_attention` is a pure function of its arguments: the seed is one of
them, so compilation, checkpointing and the backward pass all see the same noise. It is
differentiable once; the gradient itself has no gradient. Of the `torch.func` transforms it
supports `vmap`; `grad` and `vjp` need autograd rules that `torch.library` does not register.
"""

import torch
from torch import Tensor

from rka_fast.ops.arguments import DIFFERENTIABLE, SCHEMA, TENSORS, Arguments
from rka_fast.ops.backends import BACKENDS

_ARGUMENTS = f"{SCHEMA}, str backend"


def _forward(*arguments) -> Tensor:
    *arguments, backend = arguments
    a = Arguments(*arguments)
    if a.query.shape[0] == 0:
        return a.value.new_zeros((*a.query.shape[:3], a.value.shape[-1]))
    with _own_precision(a.query):
        return BACKENDS[backend].forward(a)


def _backward(grad: Tensor, needs: list[int], *arguments) -> list[Tensor]:
    *arguments, backend = arguments
    a = Arguments(*arguments)
    if a.query.shape[0] == 0:  # a shared argument has a gradient all the same
        return [a[i].new_zeros(a[i].shape) for i in needs]
    with _own_precision(grad):
        return BACKENDS[backend].backward(grad, needs, a)


def _own_precision(x: Tensor) -> torch.autocast:
    """Autocast must not round what a backend computes: the covariance would lose its rank."""
    return torch.autocast(x.device.type, enabled=False)


forward_op = torch.library.custom_op(
    "rka_fast::kernelized_attention",
    _forward,
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> Tensor",
)
backward_op = torch.library.custom_op(
    "rka_fast::kernelized_attention_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor grad, int[] needs, {_ARGUMENTS}) -> Tensor[]",
)


@forward_op.register_fake
def _(*arguments):
    a = Arguments(*arguments[:-1])
    return a.value.new_empty((*a.query.shape[:3], a.value.shape[-1]))


@backward_op.register_fake
def _(grad, needs, *arguments):
    return [arguments[i].new_empty(arguments[i].shape) for i in needs]


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[: len(TENSORS)])
    ctx.options = inputs[len(TENSORS) :]


def _differentiate(ctx, grad):
    needs = [i for i in range(len(DIFFERENTIABLE)) if ctx.needs_input_grad[i]]
    inputs = (*ctx.saved_tensors, *ctx.options)  # checkpointing lets them be unpacked once
    grads = backward_op(grad, needs, *inputs)
    result = [None] * len(inputs)
    for i, g in zip(needs, grads, strict=True):
        result[i] = g
    return tuple(result)


forward_op.register_autograd(_differentiate, setup_context=_setup_context)


def _one_by_one(op):
    """vmap as the loop it stands for: each slice is an operator call of its own, same noise."""

    def rule(info, in_dims, *arguments):
        def slice_of(x, dim, i):
            return x.select(dim, i) if isinstance(dim, int) else x

        calls = [
            op(*(slice_of(x, dim, i) for x, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return [torch.stack(x) for x in zip(*calls, strict=True)], [0] * len(calls[0])

    return rule


forward_op.register_vmap(_one_by_one(forward_op))
backward_op.register_vmap(_one_by_one(backward_op))
