"""How many operations a call counts for in `torch.utils.flop_counter.FlopCounterMode`.

As there for other attention: every product in full, whatever the mask, two operations for a
multiplication with its addition, and nothing for what is done element by element.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from rka_fast.ops.arguments import Arguments, Relations

Shapes: TypeAlias = Any  # `Arguments` whose tensors are given as their shapes


def forward(a: Shapes) -> int:
    """The products of the forward pass; its draws share those of scores and P."""
    batch, heads, rows, width, keys = _sizes(a)
    shared, drawn = width, a.value[-1]
    if a.mode != "location":
        shared += _spread_width(a)
        if a.shape_query is not None:
            shared += keys  # P = A K
    if a.mode == "sample":
        drawn += keys  # X = E L'
    flops = 2 * batch * heads * rows * keys * (shared + (a.draws or 1) * drawn)
    if a.mode != "location":
        flops += batch * _kernels(a, keys)
    if a.mode == "sample" and a.factor is None:
        flops += batch * keys**3 // 3  # the factor
    return flops


def backward(a: Shapes) -> int:
    """The products of the backward pass, which computes all of the forward pass but P V again.

    Each draw has one of its own.
    """
    if a.draws is not None:
        return a.draws * backward(a._replace(draws=None))
    batch, heads, rows, _, keys = _sizes(a)
    again = forward(a) - 2 * batch * heads * rows * keys * a.value[-1]
    return again + 2 * forward(a)  # each product has two factors to pull back to


def _sizes(a: Shapes) -> tuple[int, int, int, int, int]:
    return *a.query, a.key[2]


def _spread_width(a: Shapes) -> int:
    """Of the score products of scale and shape together."""
    return sum(x[-1] for x in (a.scale_query, a.shape_query) if x is not None)


def _kernels(a: Shapes, keys: int) -> int:
    """The Gram matrices of item and user kernel, and the prior's product of the counts."""
    grams = (a.features is not None) + (a.gate is not None)
    products = keys if a.cooccurrence is not None else 0
    if grams:
        products += grams * a.features[-1]
    return 2 * keys * keys * products


def of_forward(*arguments: Any, out_shape: Sequence[int] | None = None, **_: Any) -> int:
    """`forward` as the counter calls it."""
    return forward(Arguments(*arguments[:-1]))


def of_backward(
    grad: Any, needs: Any, *arguments: Any, out_shape: Sequence | None = None, **_: Any
) -> int:
    """`backward` as the counter calls it."""
    return backward(Arguments(*arguments[:-1]))


def relations(r: Shapes) -> int:
    """The products of a ready-made correlation, factor and prior."""
    batch, keys = r.features[:2]
    return batch * (_kernels(r, keys) + keys**3 // 3)


def of_relations(*arguments: Any, out_shape: Sequence | None = None, **_: Any) -> int:
    """Of the registered operator that makes the relations."""
    return relations(Relations(*arguments[:-1]))


def of_relations_backward(*arguments: Any, out_shape: Sequence | None = None, **_: Any) -> int:
    """All of the forward pass again, and each product has two factors to pull back to."""
    return 3 * relations(Relations(*arguments[3:-1]))
