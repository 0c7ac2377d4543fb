"""Shapes, dtypes and devices of the operator's tensors: errors by the names that callers know."""

# Tensors that belong to a given one are there: they come in groups.
# pyright: reportArgumentType=false

import torch
from torch import Tensor

from rka_fast.ops.arguments import DIFFERENTIABLE, TENSORS, TIME_BUCKETS, Arguments

# The name under which the caller knows an argument of the schema.
CALLER = {
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


def is_tensor(name: str, x: object) -> Tensor:
    """The tensor `x`, or TypeError by its name."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    return x


def boolean_padding(x: Tensor) -> None:
    """Refuse padding that is not boolean."""
    if x.dtype != torch.bool:
        raise TypeError(f"key_padding_mask: expected dtype bool (True = padding), got {x.dtype}")


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
    ranks(a.query, a.key)
    _shapes(a)
    for name in ("value", "scale_query", "shape_query", "features"):
        x = getattr(a, name)
        if x is not None and x.shape[-1] == 0:
            raise ValueError(f"{_name(name)}: expected at least one channel, got {tuple(x.shape)}")
    _dtypes(a)


def ranks(query: Tensor, key: Tensor) -> None:
    """Refuse queries and keys that have not four dimensions."""
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
    expect("key", a.key, (batch, heads, keys, width))
    if a.value.dim() != 4 or a.value.shape[:3] != (batch, heads, keys):
        raise ValueError(
            f"value: expected shape ({batch}, {heads}, {keys}, value width), "
            f"got {tuple(a.value.shape)}"
        )
    if a.padding is not None:
        expect("padding", a.padding, (batch, keys))
    if a.draws is not None and tuple(a.seed.shape) != (a.draws,):
        raise ValueError(
            f"seed: expected an int, one int64 or {a.draws} of them, one for each draw, got "
            f"{a.seed.dtype} of shape {tuple(a.seed.shape)}"
        )
    if a.draws is None and a.seed is not None and a.seed.numel() != 1:
        raise ValueError(f"seed: expected one element, got shape {tuple(a.seed.shape)}")
    if a.time_table is not None:
        if a.time_table.dim() != 2 or a.time_table.shape[0] not in (1, heads):
            expect("time_table", a.time_table, (heads, TIME_BUCKETS))
        expect("time_table", a.time_table, (a.time_table.shape[0], TIME_BUCKETS))
        expect("row_times", a.row_times, (batch, rows))
        expect("key_times", a.key_times, (batch, keys))
    if a.features is not None or a.correlation is not None:
        _spread_shapes(a, batch, heads, rows, keys)


def _spread_shapes(a: Arguments, batch: int, heads: int, rows: int, keys: int) -> None:
    if a.scale_query.dim() != 4:
        expect("scale_query", a.scale_query, (batch, heads, rows, a.query.shape[3]))
    expect("scale_query", a.scale_query, (batch, heads, rows, a.scale_query.shape[-1]))
    expect("scale_key", a.scale_key, (batch, heads, keys, a.scale_query.shape[-1]))
    if a.scale_bias is not None:
        expect("scale_bias", a.scale_bias, (heads,))
    if a.shape_query is not None:
        if a.shape_query.dim() != 4:
            expect("shape_query", a.shape_query, (batch, heads, rows, a.query.shape[3]))
        expect("shape_query", a.shape_query, (batch, heads, rows, a.shape_query.shape[-1]))
        expect("shape_key", a.shape_key, (batch, heads, keys, a.shape_query.shape[-1]))
    if a.correlation is not None:
        expect("correlation", a.correlation, (batch, keys, keys))
        if a.factor is not None:
            expect("factor", a.factor, (batch, keys, keys))
        if a.prior is not None:
            target = (batch, heads, rows, keys)
            broadcasts(_name("prior"), a.prior, target, dimensions=4)
        return
    if a.features.dim() != 3 or a.features.shape[:2] != (batch, keys):
        raise ValueError(
            f"{_name('features')}: expected shape ({batch}, {keys}, feature width), "
            f"got {tuple(a.features.shape)}"
        )
    expect("concentration", a.concentration, (2,))
    if a.gate is not None:
        expect("gate", a.gate, (batch, a.features.shape[2]))
    if a.cooccurrence is not None:
        if a.shape_query is not None and a.row_offset == 0 and rows != keys:
            raise ValueError(
                "covariance.kernels.cooccurrence: expected queries that are the keys, "
                f"got {rows} queries and {keys} keys; the shape's co-occurrence prior relates "
                "position t to the keys. Leave cooccurrence out for cross-attention, or pass "
                "row_offset where the queries are some of the keys"
            )
        expect("cooccurrence", a.cooccurrence, (batch, keys, keys))


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
        boolean_padding(a.padding)
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


def expect(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse another shape."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{_name(name)}: expected shape {shape}, got {tuple(x.shape)}")


def broadcasts(name: str, x: Tensor, target: tuple[int, ...], dimensions: int = 0) -> None:
    """Refuse what does not broadcast to the target, or has fewer dimensions than it may."""
    shape = (1,) * (4 - x.dim()) + tuple(x.shape)
    fits = len(shape) == 4 and x.dim() >= dimensions
    if not fits or any(s not in (1, t) for s, t in zip(shape, target, strict=True)):
        raise ValueError(
            f"{name}: expected a shape broadcastable to {target}, got {tuple(x.shape)}"
        )


def _name(field: str) -> str:
    return CALLER.get(field, field)
