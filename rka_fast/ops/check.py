"""Validation of the operator's arguments: each error names argument, expected and given."""

# Tensors that belong to a given one are there: they come in the groups of api.py.
# pyright: reportArgumentType=false

import math

import torch
from torch import Tensor

from rka_fast.ops.arguments import (
    ACTIVATIONS,
    DIFFERENTIABLE,
    MADE_OF,
    MODES,
    TENSORS,
    TIME_BUCKETS,
    Arguments,
    Relations,
)

# The name under which the caller knows an argument of the schema.
_CALLER = {
    "query": "location.query",
    "key": "location.key",
    "bias": "location.bias",
    "scale_query": "covariance.query",
    "scale_key": "covariance.key",
    "scale_bias": "covariance.bias",
    "shape_query": "shape.query",
    "shape_key": "shape.key",
    "features": "covariance.kernels.features",
    "concentration": "covariance.kernels.concentration",
    "mixture": "covariance.kernels.mixture",
    "gate": "covariance.kernels.gate",
    "cooccurrence": "covariance.kernels.cooccurrence",
    "correlation": "covariance.kernels.correlation",
    "factor": "covariance.kernels.factor",
    "prior": "covariance.kernels.prior",
    "padding": "key_padding_mask",
    "time_table": "location.times.table",
    "row_times": "location.times.rows",
    "key_times": "location.times.keys",
}
_SAME_DTYPE = ("key", "value", "scale_query", "scale_key", "shape_query", "shape_key")


def is_tensor(name: str, x) -> Tensor:
    """The tensor `x`, or TypeError by its name."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    return x


def groups(location, covariance, shape, kinds: tuple[type, ...]) -> None:
    """The groups of arguments are groups."""
    given = {"location": location, "covariance": covariance, "shape": shape}
    for (name, x), kind in zip(given.items(), kinds, strict=True):
        if not isinstance(x, kind) and (x is not None or name == "location"):
            raise TypeError(
                f"{name}: expected rka_fast.{kind.__name__}({', '.join(kind._fields)}), got "
                f"{type(x).__name__}. The arguments come in groups: kernelized_attention("
                "Location(q, k), v, Covariance(q2, k2, Kernels(features)), Shape(q3, k3)); plain "
                'attention is kernelized_attention(Location(q, k), v, mode="location", '
                'activation="identity")'
            )


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
    if not 0.0 <= a.dropout < 1.0:
        raise ValueError(f"dropout_p: expected 0 <= dropout_p < 1, got {a.dropout}")
    if not 0.0 < a.jitter < math.inf:  # isfinite() is not for compiled graphs
        raise ValueError(f"jitter: expected a positive number such as 1e-4, got {a.jitter}")


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


def times(x) -> None:
    """Refuse what is not RelativeTimes of tensors."""
    if not (isinstance(x, tuple) and len(x) == 3):
        raise TypeError(
            f"location.times: expected RelativeTimes(rows, keys, table), got {type(x).__name__}"
        )
    for name, y in zip(("rows", "keys", "table"), x, strict=True):
        is_tensor(f"location.times.{name}", y)


def mixture(x: Tensor, features: Tensor) -> None:
    """Refuse weights of a wrong shape, or not for the batch of the features."""
    is_tensor("covariance.kernels.mixture", x)
    batch = features.shape[0] if features.dim() else 1
    if x.dim() != 2 or x.shape[1] != 3 or x.shape[0] not in (1, batch):
        raise ValueError(
            f"covariance.kernels.mixture: expected shape (1, 3) or ({batch}, 3), "
            f"got {tuple(x.shape)}"
        )


def mask(x: Tensor, location) -> None:
    """A boolean mask that broadcasts to (batch, heads, queries, keys)."""
    is_tensor("mask", x)
    if x.dtype != torch.bool:
        raise TypeError(
            f"mask: expected dtype bool (True = may be seen), got {x.dtype}; "
            "an additive mask goes into location.bias"
        )
    _ranks(location.query, location.key)
    target = (*location.query.shape[:3], location.key.shape[-2])
    _broadcasts("mask", x, target)


def bias(location) -> None:
    """A float bias of four dimensions that broadcasts to (batch, heads, queries, keys)."""
    x = is_tensor("location.bias", location.bias)
    _ranks(location.query, location.key)
    target = (*location.query.shape[:3], location.key.shape[-2])
    if not x.is_floating_point():
        raise TypeError(f"location.bias: expected a float dtype, got {x.dtype}")
    if x.dim() != 4:
        raise ValueError(
            f"location.bias: expected 4 dimensions broadcastable to {target}, "
            f"got shape {tuple(x.shape)}"
        )
    _broadcasts("location.bias", x, target)


def padding(x: Tensor, location) -> None:
    """A boolean mask (batch, keys)."""
    is_tensor("key_padding_mask", x)
    _ranks(location.query, location.key)
    _boolean_padding(x)
    _expect("padding", x, (location.query.shape[0], location.key.shape[-2]))


def _boolean_padding(x: Tensor) -> None:
    if x.dtype != torch.bool:
        raise TypeError(f"key_padding_mask: expected dtype bool (True = padding), got {x.dtype}")


def call(a: Arguments) -> None:
    """A call of the registered operator: everything that `kernelized_attention` sees to."""
    options(a, has_covariance=a.scale_query is not None)
    scale(a.scale)
    row_offset(a.row_offset)
    for name, needed in _needed(a).items():
        for other in needed:
            if getattr(a, other) is None:
                raise ValueError(f"{other}: expected a tensor, as {name} needs it, got None")
    tensors(a)
    target = (*a.query.shape[:3], a.key.shape[2])
    if a.mask is not None:
        if a.mask.dtype != torch.bool:
            raise TypeError(f"mask: expected dtype bool (True = may be seen), got {a.mask.dtype}")
        _broadcasts("mask", a.mask, target, dimensions=4)
    if a.bias is not None:
        _broadcasts("bias", a.bias, target, dimensions=4)
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
    if is_tensor("features", r.features).dim() != 3:
        raise ValueError(
            "features: expected 3 dimensions (batch, keys, width), got shape "
            f"{tuple(r.features.shape)}"
        )
    if r.mask is not None and is_tensor("mask", r.mask).dim() != 4:
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
            _expect(name, x, (batch, keys, keys))
    differentiable = MADE_OF.index("cooccurrence")
    for i in needs:
        if not 0 <= i < differentiable or r[i] is None or needs.count(i) > 1:
            raise ValueError(
                "needs: expected positions of given arguments that have a gradient (0 to "
                f"{differentiable - 1}), each once, got {needs}"
            )


def gradient(grad: Tensor, needs: list[int], a: Arguments) -> None:
    """The other arguments of the registered backward operator."""
    expected = (*a.query.shape[:3], a.value.shape[-1])
    if tuple(grad.shape) != expected or not grad.is_floating_point():
        raise ValueError(f"grad: expected shape {expected}, got {grad.dtype} {tuple(grad.shape)}")
    for i in needs:
        if not 0 <= i < len(DIFFERENTIABLE) or a[i] is None or needs.count(i) > 1:
            raise ValueError(
                "needs: expected positions of given arguments that have a gradient (0 to "
                f"{len(DIFFERENTIABLE) - 1}), each once, got {needs}"
            )


def tensors(a: Arguments) -> None:
    """Shapes, dtypes and devices of everything that is there."""
    for name in TENSORS:
        x = getattr(a, name)
        if x is None:
            continue
        is_tensor(_name(name), x)
        if x.device != a.query.device:
            raise ValueError(
                f"{_name(name)}: expected device {a.query.device} like location.query, "
                f"got {x.device}"
            )
    _ranks(a.query, a.key)
    _shapes(a)
    for name in ("value", "scale_query", "shape_query", "features"):
        x = getattr(a, name)
        if x is not None and x.shape[-1] == 0:
            raise ValueError(f"{_name(name)}: expected at least one channel, got {tuple(x.shape)}")
    _dtypes(a)


def _ranks(query: Tensor, key: Tensor) -> None:
    for name, x in (("location.query", query), ("location.key", key)):
        is_tensor(name, x)
        if x.dim() != 4:
            raise ValueError(
                f"{name}: expected 4 dimensions (batch, heads, length, head width), "
                f"got shape {tuple(x.shape)}"
            )


def _shapes(a: Arguments) -> None:
    batch, heads, rows, width = a.query.shape
    keys = a.key.shape[2]
    if 0 in (heads, width):
        raise ValueError(
            "location: expected at least one head and one channel, "
            f"got query {tuple(a.query.shape)} and key {tuple(a.key.shape)}"
        )
    if a.causal and a.row_offset == 0 and rows != keys:
        raise ValueError(
            f"is_causal: expected as many queries as keys, got {rows} and {keys}; "
            "pass row_offset, or a boolean mask that says which query sees which key"
        )
    if a.row_offset and rows + a.row_offset > keys:
        raise ValueError(
            f"row_offset: expected at most {keys - rows}, as {rows} queries are among {keys} "
            f"keys, got {a.row_offset}"
        )
    _expect("key", a.key, (batch, heads, keys, width))
    if a.value.dim() != 4 or a.value.shape[:3] != (batch, heads, keys):
        raise ValueError(
            f"value: expected shape ({batch}, {heads}, {keys}, value width), "
            f"got {tuple(a.value.shape)}"
        )
    if a.padding is not None:
        _expect("padding", a.padding, (batch, keys))
    if a.seed is not None and a.seed.numel() != 1:
        raise ValueError(f"seed: expected one element, got shape {tuple(a.seed.shape)}")
    if a.time_table is not None:
        if a.time_table.dim() != 2 or a.time_table.shape[0] not in (1, heads):
            _expect("time_table", a.time_table, (heads, TIME_BUCKETS))
        _expect("time_table", a.time_table, (a.time_table.shape[0], TIME_BUCKETS))
        _expect("row_times", a.row_times, (batch, rows))
        _expect("key_times", a.key_times, (batch, keys))
    if a.features is not None or a.correlation is not None:
        _spread_shapes(a, batch, heads, rows, keys)


def _spread_shapes(a: Arguments, batch: int, heads: int, rows: int, keys: int) -> None:
    if a.scale_query.dim() != 4:
        _expect("scale_query", a.scale_query, (batch, heads, rows, a.query.shape[3]))
    _expect("scale_query", a.scale_query, (batch, heads, rows, a.scale_query.shape[-1]))
    _expect("scale_key", a.scale_key, (batch, heads, keys, a.scale_query.shape[-1]))
    if a.scale_bias is not None:
        _expect("scale_bias", a.scale_bias, (heads,))
    if a.shape_query is not None:
        if a.shape_query.dim() != 4:
            _expect("shape_query", a.shape_query, (batch, heads, rows, a.query.shape[3]))
        _expect("shape_query", a.shape_query, (batch, heads, rows, a.shape_query.shape[-1]))
        _expect("shape_key", a.shape_key, (batch, heads, keys, a.shape_query.shape[-1]))
    if a.correlation is not None:
        _expect("correlation", a.correlation, (batch, keys, keys))
        if a.factor is not None:
            _expect("factor", a.factor, (batch, keys, keys))
        if a.prior is not None:
            target = (batch, heads, rows, keys)
            _broadcasts(_name("prior"), a.prior, target, dimensions=4)
        return
    if a.features.dim() != 3 or a.features.shape[:2] != (batch, keys):
        raise ValueError(
            f"{_name('features')}: expected shape ({batch}, {keys}, feature width), "
            f"got {tuple(a.features.shape)}"
        )
    _expect("concentration", a.concentration, (2,))
    if a.gate is not None:
        _expect("gate", a.gate, (batch, a.features.shape[2]))
    if a.cooccurrence is not None:
        if a.shape_query is not None and a.row_offset == 0 and rows != keys:
            raise ValueError(
                "covariance.kernels.cooccurrence: expected queries that are the keys, "
                f"got {rows} queries and {keys} keys; the shape's co-occurrence prior relates "
                "position t to the keys. Leave cooccurrence out for cross-attention, or pass "
                "row_offset where the queries are some of the keys"
            )
        _expect("cooccurrence", a.cooccurrence, (batch, keys, keys))


def _dtypes(a: Arguments) -> None:
    if not a.query.is_floating_point():
        raise TypeError(f"location.query: expected a float dtype, got {a.query.dtype}")
    for name in _SAME_DTYPE:
        x = getattr(a, name)
        if x is not None and x.dtype != a.query.dtype:
            raise TypeError(
                f"{_name(name)}: expected dtype {a.query.dtype} like location.query, got {x.dtype}"
            )
    for name in DIFFERENTIABLE:
        x = getattr(a, name)
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{_name(name)}: expected a float dtype, got {x.dtype}")
    if a.padding is not None:
        _boolean_padding(a.padding)
    if a.prior is not None and not a.prior.is_floating_point():
        raise TypeError(f"{_name('prior')}: expected a float dtype, got {a.prior.dtype}")
    counts = a.cooccurrence
    if counts is not None and (counts.dtype == torch.bool or counts.is_complex()):
        raise TypeError(f"{_name('cooccurrence')}: expected counts, got {counts.dtype}")
    for name in ("row_times", "key_times"):
        x = getattr(a, name)
        if x is not None and x.dtype != torch.int64:
            raise TypeError(f"{_name(name)}: expected dtype int64 (seconds), got {x.dtype}")
    if a.seed is not None and a.seed.dtype != torch.int64:
        raise TypeError(f"seed: expected an int or a tensor of dtype int64, got {a.seed.dtype}")


def _expect(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{_name(name)}: expected shape {shape}, got {tuple(x.shape)}")


def _broadcasts(name: str, x: Tensor, target: tuple[int, ...], dimensions: int = 0) -> None:
    shape = (1,) * (4 - x.dim()) + tuple(x.shape)
    fits = len(shape) == 4 and x.dim() >= dimensions
    if not fits or any(s not in (1, t) for s, t in zip(shape, target, strict=True)):
        raise ValueError(
            f"{name}: expected a shape broadcastable to {target}, got {tuple(x.shape)}"
        )


def _name(field: str) -> str:
    return _CALLER.get(field, field)
