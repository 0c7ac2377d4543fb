"""The operator that makes K, L and the prior once for many calls, as PyTorch knows it.

`torch.ops.rka_fast.relations` has the boundary of the attention's (see library.py). The function
transforms of `torch.func`, and derivatives above the first, go through the reference's formulas.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from rka_fast.ops import check, flops
from rka_fast.ops.arguments import MADE_OF, RELATIONS_SCHEMA, Relations
from rka_fast.ops.backends import RELATION_BACKENDS, RelationBackend
from rka_fast.ops.library import fragment, in_plain, own_precision, placed, push, refuse, register
from rka_fast.ops.reference.relations import relations

DIFFERENTIABLE = MADE_OF[: MADE_OF.index("cooccurrence")]
_TENSORS = Relations._fields.index("causal")

for _definition in (
    f"relations({RELATIONS_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor)",
    "relations_backward(Tensor? d_correlation, Tensor? d_factor, int[] needs, "
    f"{RELATIONS_SCHEMA}, str backend) -> Tensor[]",
):
    fragment.define(_definition, tags=torch.Tag.pt2_compliant_tag)
forward_op = torch.ops.rka_fast.relations.default
backward_op = torch.ops.rka_fast.relations_backward.default


def call(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation, factor and prior, or (0,) without counts, of `Relations` and a backend's name.

    Differentiable in every way but for the prior.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore
        if not (torch.onnx.is_in_onnx_export() or in_plain.get()):
            return forward_op(*arguments)
    elif not torch._C._are_functorch_transforms_active():
        return cast("tuple[Tensor, Tensor, Tensor]", Eager.apply(*arguments))
    return _in_plain_operators(arguments)


def _in_plain_operators(arguments: Sequence) -> tuple[Tensor, Tensor, Tensor]:
    r = Relations(*arguments[:-1])
    with own_precision(r.features):
        return relations(r)


def _checked(arguments: Sequence) -> tuple[Relations, RelationBackend]:
    *values, name = arguments
    r = Relations(*values)
    if name not in RELATION_BACKENDS:
        names = ", ".join(RELATION_BACKENDS)
        raise ValueError(f"backend: expected one of {names}, got {name!r}")
    check.relations(r)
    return r, RELATION_BACKENDS[name]


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    r, backend = _checked(arguments)
    if r.features.shape[0] == 0 or r.features.shape[1] == 0:
        return tuple(torch.zeros_like(x) for x in _fake_forward(*arguments))
    with own_precision(r.features):
        return tuple(x.contiguous() for x in backend.relations(r))


def _backward(
    d_correlation: Tensor | None, d_factor: Tensor | None, needs: list[int], *arguments: Any
) -> list[Tensor]:
    r, backend = _checked(arguments)
    check.relation_gradients(d_correlation, d_factor, needs, r)
    if r.features.shape[0] == 0 or r.features.shape[1] == 0:
        return [arguments[i].new_zeros(arguments[i].shape) for i in needs]
    with own_precision(r.features):
        return backend.relations_backward(d_correlation, d_factor, needs, r)


def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    r = Relations(*arguments[:-1])
    batch, keys = r.features.shape[:2]
    dtype = torch.promote_types(r.features.dtype, torch.float32)
    heads = 1 if r.mask is None else r.mask.shape[1]
    prior = (0,) if r.cooccurrence is None else (batch, heads, keys, keys)
    square = (batch, keys, keys)
    correlation, factor, prior = (
        r.features.new_empty(shape, dtype=dtype) for shape in (square, square, prior)
    )
    return correlation, factor, prior


def _fake_backward(
    d_correlation: Tensor | None, d_factor: Tensor | None, needs: list[int], *arguments: Any
) -> list[Tensor]:
    return [arguments[i].new_empty(arguments[i].shape) for i in needs]


def _save(ctx: Any, inputs: tuple, output: tuple | None = None) -> None:
    ctx.set_materialize_grads(False)  # in mode mean nobody reads the factor
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.options = inputs[_TENSORS:]


def _differentiate(
    ctx: Any,
    d_correlation: Tensor | None,
    d_factor: Tensor | None,
    _: Any,
    backward: Callable = backward_op,
) -> tuple:
    inputs = (*ctx.saved_tensors, *ctx.options)
    if d_correlation is None and d_factor is None:
        return (None,) * len(inputs)
    needs = list(compress(range(len(DIFFERENTIABLE)), ctx.needs_input_grad))
    return placed(needs, backward(d_correlation, d_factor, needs, *inputs), len(inputs))


class Eager(torch.autograd.Function):
    """The operator for eager autograd, in reverse and in forward mode."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        _save(ctx, inputs)
        ctx.save_for_forward(*inputs[:_TENSORS])
        with torch._C._AutoDispatchBelowAutograd():
            output = forward_op(*inputs)
        ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        return _differentiate(ctx, *grads, backward=_backward_with_gradient)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple:
        moved = [i for i in range(len(DIFFERENTIABLE)) if tangents[i] is not None]
        function, primals = _reference((*ctx.saved_tensors, *ctx.options), moved)
        return *push(function, primals, tuple(tangents[i] for i in moved)), None


def _backward_with_gradient(
    d_correlation: Tensor | None, d_factor: Tensor | None, needs: list[int], *inputs: Any
) -> Sequence[Tensor]:
    """The gradients, differentiable themselves where somebody builds a graph of them."""
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            return backward_op(d_correlation, d_factor, needs, *inputs)
    function, primals = _reference(inputs, needs)
    grads = (d_correlation, d_factor)
    given = [pair for pair in zip(function(*primals), grads, strict=True) if pair[1] is not None]
    outputs, grads = zip(*given, strict=True)
    return torch.autograd.grad(outputs, primals, grads, create_graph=True, materialize_grads=True)


def _reference(inputs: Sequence, moved: list[int]) -> tuple[Callable, tuple[Tensor, ...]]:
    """Correlation and factor as a function of the inputs at `moved`, and those inputs."""

    def function(*primals: Tensor) -> tuple[Tensor, Tensor]:
        given = list(inputs)
        for i, x in zip(moved, primals, strict=True):
            given[i] = x
        return _in_plain_operators(given)[:2]

    return function, tuple(inputs[i] for i in moved)


register(forward_op, _forward, _fake_forward, _differentiate, _save)
register(backward_op, _backward, _fake_backward, refuse, None)
register_flop_formula(torch.ops.rka_fast.relations)(flops.of_relations)
register_flop_formula(torch.ops.rka_fast.relations_backward)(flops.of_relations_backward)
