"""Validation of the operator's arguments: each error names argument, expected and given."""

# Tensors that belong to a given one are there: they come in groups.
# pyright: reportArgumentType=false

import math

import torch
from torch import Tensor

from rka_fast.ops import shapes
from rka_fast.ops.arguments import (
    ACTIVATIONS,
    DIFFERENTIABLE,
    MADE_OF,
    MODES,
    Arguments,
    Relations,
    output_shape,
)
from rka_fast.ops.groups import Covariance, Location, RelativeTimes, Shape


def groups(location: Location, covariance: Covariance | None, shape: Shape | None) -> None:
    """The groups of arguments are groups."""
    for name, x, kind in (
        ("location", location, Location),
        ("covariance", covariance, Covariance),
        ("shape", shape, Shape),
    ):
        if not isinstance(x, kind) and (x is not None or name == "location"):
            raise TypeError(
                f"{name}: expected rka_fast.{kind.__name__}({', '.join(kind._fields)}), got "
                f"{type(x).__name__}. The arguments come in groups: kernelized_attention("
                "Location(q, k), v, Covariance(q2, k2, Kernels(features)), Shape(q3, k3)); plain "
                'attention is kernelized_attention(Location(q, k), v, mode="location", '
                'activation="identity")'
            )
        if x is not None:
            for field in ("query", "key"):
                shapes.is_tensor(f"{name}.{field}", getattr(x, field))


def flags(**given: object) -> None:
    """Refuse what is neither True nor False."""
    for name, x in given.items():
        if not isinstance(x, (bool, torch.SymBool)):
            raise TypeError(f"{name}: expected a bool, got {type(x).__name__}")


def options(a: Arguments, has_covariance: bool) -> None:
    """Mode, activation, dropout and jitter."""
    if a.mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {a.mode!r}")
    if a.mode != "location" and not has_covariance:
        raise ValueError(
            f"mode {a.mode!r} needs a covariance, got None: pass covariance=Covariance(...) "
            "or mode='location'"
        )
    if a.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, got {a.activation!r}"
        )
    dropout("dropout_p", a.dropout)
    if not 0.0 < a.jitter < math.inf:  # isfinite() is not for compiled graphs
        raise ValueError(f"jitter: expected a positive number such as 1e-4, got {a.jitter}")


def dropout(name: str, x: float) -> None:
    """Refuse what is no probability below 1."""
    if not 0.0 <= x < 1.0:
        raise ValueError(f"{name}: expected 0 <= {name} < 1, got {x}")


def scale(x: float | None) -> None:
    """Refuse what is no finite number."""
    if x is None:
        return
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"scale: expected a number or None, got {type(x).__name__}")
    if not -math.inf < x < math.inf:
        raise ValueError(f"scale: expected a finite number, got {x}")


def row_offset(x: int) -> None:
    """Refuse what is no whole number from 0."""
    if isinstance(x, bool) or not isinstance(x, (int, torch.SymInt)):
        raise TypeError(f"row_offset: expected an int, got {type(x).__name__}")
    if x < 0:
        raise ValueError(f"row_offset: expected 0 or more, got {x}")


def draws(x: int, mode: str, dropout: float) -> None:
    """Refuse what is no number of draws, and draws of what is always the same."""
    if isinstance(x, bool) or not isinstance(x, (int, torch.SymInt)):
        raise TypeError(f"draws: expected an int or None, got {type(x).__name__}")
    if x < 1:
        raise ValueError(f"draws: expected at least 1, got {x}")
    if mode != "sample" and dropout == 0.0:
        raise ValueError(
            f"draws: expected None in mode {mode!r} without dropout, which draws nothing, got {x}; "
            "pass mode='sample'"
        )


def times(x: RelativeTimes) -> None:
    """Refuse what is not RelativeTimes of tensors."""
    if not (isinstance(x, tuple) and len(x) == 3):
        raise TypeError(
            f"location.times: expected RelativeTimes(rows, keys, table), got {type(x).__name__}"
        )
    for name, y in zip(("rows", "keys", "table"), x, strict=True):
        shapes.is_tensor(f"location.times.{name}", y)


def mixture(x: Tensor, features: Tensor) -> None:
    """Refuse weights of a wrong shape, or not for the batch of the features."""
    shapes.is_tensor("covariance.kernels.mixture", x)
    batch = features.shape[0] if features.dim() else 1
    if x.dim() != 2 or x.shape[1] != 3 or x.shape[0] not in (1, batch):
        raise ValueError(
            f"covariance.kernels.mixture: expected shape (1, 3) or ({batch}, 3), "
            f"got {tuple(x.shape)}"
        )


def mask(x: Tensor, location: Location) -> None:
    """A boolean mask that broadcasts to (batch, heads, queries, keys)."""
    shapes.is_tensor("mask", x)
    if x.dtype != torch.bool:
        raise TypeError(
            f"mask: expected dtype bool (True = may be seen), got {x.dtype}; "
            "an additive mask goes into location.bias"
        )
    shapes.ranks(location.query, location.key)
    target = (*location.query.shape[:3], location.key.shape[-2])
    shapes.broadcasts("mask", x, target)


def bias(location: Location) -> None:
    """A float bias of four dimensions that broadcasts to (batch, heads, queries, keys)."""
    x = shapes.is_tensor("location.bias", location.bias)
    shapes.ranks(location.query, location.key)
    target = (*location.query.shape[:3], location.key.shape[-2])
    if not x.is_floating_point():
        raise TypeError(f"location.bias: expected a float dtype, got {x.dtype}")
    if x.dim() != 4:
        raise ValueError(
            f"location.bias: expected 4 dimensions broadcastable to {target}, "
            f"got shape {tuple(x.shape)}"
        )
    shapes.broadcasts("location.bias", x, target)


def padding(x: Tensor, location: Location) -> None:
    """A boolean mask (batch, keys)."""
    shapes.is_tensor("key_padding_mask", x)
    shapes.ranks(location.query, location.key)
    shapes.boolean_padding(x)
    shapes.expect("padding", x, (location.query.shape[0], location.key.shape[-2]))


def call(a: Arguments) -> None:
    """A call of the registered operator: everything that `kernelized_attention` sees to."""
    options(a, has_covariance=a.scale_query is not None)
    scale(a.scale)
    row_offset(a.row_offset)
    if a.draws is not None:
        draws(a.draws, a.mode, a.dropout)
    for name, needed in _needed(a).items():
        for other in needed:
            if getattr(a, other) is None:
                raise ValueError(f"{other}: expected a tensor, as {name} needs it, got None")
    shapes.tensors(a)
    target = (*a.query.shape[:3], a.key.shape[2])
    if a.mask is not None:
        if a.mask.dtype != torch.bool:
            raise TypeError(f"mask: expected dtype bool (True = may be seen), got {a.mask.dtype}")
        shapes.broadcasts("mask", a.mask, target, dimensions=4)
    if a.bias is not None:
        shapes.broadcasts("bias", a.bias, target, dimensions=4)
    if a.mixture is not None:
        mixture(a.mixture, a.features)


def _needed(a: Arguments) -> dict[str, tuple[str, ...]]:
    """Arguments that go together: what is given or chosen, and what it cannot do without."""
    kernels = ("scale_query", "scale_key", "features", "concentration", "mixture")
    ready = ("correlation", "factor", "prior")
    if any(getattr(a, name) is not None for name in ready):
        _alone(a)
        kernels = (*kernels[:2], *(ready[:2] if a.mode == "sample" else ready[:1]))
    needed = {
        "the noise": ("seed",) if a.mode == "sample" or a.dropout > 0.0 else (),
        "the mode": kernels[:2] if a.mode != "location" else (),
        "the covariance": kernels if a.mode == "sample" else (),
    }
    for name in ("scale_key", "scale_bias", *kernels[2:], "gate", "cooccurrence", *ready):
        if getattr(a, name) is not None:
            needed[name] = kernels
    if a.shape_query is not None or a.shape_key is not None:
        needed["a shape"] = ("shape_query", "shape_key", *kernels)
    if a.time_table is not None:
        needed["time_table"] = ("row_times", "key_times")
    return needed


def _alone(a: Arguments) -> None:
    for name in MADE_OF:
        if getattr(a, name) is not None:
            raise ValueError(
                f"{name}: expected None beside a ready-made correlation, factor or prior, which "
                "are made of it, got a tensor"
            )


def relations(r: Relations) -> None:
    """Everything that correlation, factor and prior are made of."""
    if shapes.is_tensor("features", r.features).dim() != 3:
        raise ValueError(
            "features: expected 3 dimensions (batch, keys, width), got shape "
            f"{tuple(r.features.shape)}"
        )
    if r.mask is not None and shapes.is_tensor("mask", r.mask).dim() != 4:
        raise ValueError(
            "mask: expected 4 dimensions (batch, heads, queries, keys), got shape "
            f"{tuple(r.mask.shape)}"
        )
    call(r.as_call())


def relation_gradients(
    d_correlation: Tensor | None, d_factor: Tensor | None, needs: list[int], r: Relations
) -> None:
    """The other arguments of the registered backward operator of the relations."""
    batch, keys = r.features.shape[:2]
    for name, x in (("d_correlation", d_correlation), ("d_factor", d_factor)):
        if x is not None:
            shapes.expect(name, x, (batch, keys, keys))
    differentiable = MADE_OF.index("cooccurrence")
    for i in needs:
        if not 0 <= i < differentiable or r[i] is None or needs.count(i) > 1:
            raise ValueError(
                "needs: expected positions of given arguments that have a gradient (0 to "
                f"{differentiable - 1}), each once, got {needs}"
            )


def gradient(grad: Tensor, needs: list[int], a: Arguments) -> None:
    """The other arguments of the registered backward operator."""
    expected = output_shape(a)
    if tuple(grad.shape) != expected or not grad.is_floating_point():
        raise ValueError(f"grad: expected shape {expected}, got {grad.dtype} {tuple(grad.shape)}")
    for i in needs:
        if not 0 <= i < len(DIFFERENTIABLE) or a[i] is None or needs.count(i) > 1:
            raise ValueError(
                "needs: expected positions of given arguments that have a gradient (0 to "
                f"{len(DIFFERENTIABLE) - 1}), each once, got {needs}"
            )
