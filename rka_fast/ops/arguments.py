"""The arguments of the operator, once: their order, their schema and what goes with them.

B sequences, H heads, n queries, m keys, dh head width, dv value width, df feature width.
`csrc/binding.h` holds the same list for C++; a test compares the two.
"""

import math
from functools import cache
from typing import NamedTuple, get_type_hints

from torch import Tensor

MODES = ("sample", "mean", "location")
ACTIVATIONS = ("identity", "leaky_relu", "relu", "tanh")  # f of location and shape
TIME_BUCKETS, TIME_STEP = 129, 0.301  # floor(ln(max(1, seconds)) / TIME_STEP), at most the last


@cache
def time_edges() -> tuple[int, ...]:
    """The least whole number of seconds of each bucket, from float64: the same on every backend."""
    return tuple(math.ceil(math.exp(TIME_STEP * k)) for k in range(TIME_BUCKETS))


class Arguments(NamedTuple):
    """What every backend receives: already validated, contiguity not guaranteed."""

    query: Tensor  # (B, H, n, dh) location
    key: Tensor  # (B, H, m, dh)
    value: Tensor  # (B, H, m, dv)
    bias: Tensor | None = None  # (B or 1, H or 1, n or 1, m or 1), added to the location
    scale_query: Tensor | None = None  # (B, H, n, dh)
    scale_key: Tensor | None = None  # (B, H, m, dh)
    scale_bias: Tensor | None = None  # (H,)
    shape_query: Tensor | None = None  # (B, H, n, dh)
    shape_key: Tensor | None = None  # (B, H, m, dh)
    features: Tensor | None = None  # (B, m, df)
    concentration: Tensor | None = None  # (2,) gamma of the item and of the user kernel
    mixture: Tensor | None = None  # (B or 1, 3) weights of the counting, item and user kernel
    gate: Tensor | None = None  # (B, df) for the user kernel
    time_table: Tensor | None = None  # (H or 1, TIME_BUCKETS), added to the location by the bucket
    # Ready-made, in place of features, concentration, mixture, gate and cooccurrence:
    correlation: Tensor | None = None  # (B, m, m) K
    factor: Tensor | None = None  # (B, m, m) L of K = L L'; what is above its diagonal is not read
    # No gradient from here on.
    cooccurrence: Tensor | None = None  # (B, m, m) counts, diagonal = support
    prior: Tensor | None = None  # (B, H or 1, n, m) of the shape, made of the cooccurrence
    mask: Tensor | None = None  # (B or 1, H or 1, n or 1, m) bool, True = may be attended
    padding: Tensor | None = None  # (B, m) bool, True = the key does not exist
    row_times: Tensor | None = None  # (B, n) int64 seconds, for time_table
    key_times: Tensor | None = None  # (B, m) int64 seconds
    seed: Tensor | None = None  # one int64, or (draws,)
    # No tensors from here on.
    causal: bool = False
    mode: str = "location"  # one of MODES
    activation: str = "identity"  # one of ACTIVATIONS
    dropout: float = 0.0
    jitter: float = 1e-4
    scale: float | None = None  # of the location's products alone; None is 1 / sqrt(dh)
    row_offset: int = 0  # query t is position t + row_offset: of noise, causality and prior
    draws: int | None = None  # each with its element of seed; the output leads with them


DIFFERENTIABLE = Arguments._fields[: Arguments._fields.index("cooccurrence")]
TENSORS = Arguments._fields[: Arguments._fields.index("causal")]

_SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    str: "str",
    int: "int",
    int | None: "int?",
    float: "float",
    float | None: "float?",
}


def _schema(arguments: type) -> str:
    return ", ".join(
        f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in get_type_hints(arguments).items()
    )


SCHEMA = _schema(Arguments)


def each_draw(a: Arguments) -> list[Arguments]:
    """The call as its single draws."""
    assert a.seed is not None  # draws have one each
    return [a._replace(seed=seed, draws=None) for seed in a.seed.unbind()]


def output_shape(a: Arguments) -> tuple[int, ...]:
    """(B, H, n, dv), behind the number of draws where it was given."""
    shape = (*a.query.shape[:3], a.value.shape[-1])
    return shape if a.draws is None else (a.draws, *shape)


class Relations(NamedTuple):
    """What correlation, factor and prior are made of, as fields of `Arguments`; n = m."""

    features: Tensor
    concentration: Tensor
    mixture: Tensor
    gate: Tensor | None = None
    cooccurrence: Tensor | None = None
    mask: Tensor | None = None
    padding: Tensor | None = None
    causal: bool = False
    jitter: float = 1e-4

    @classmethod
    def of(cls, a: Arguments) -> "Relations":
        """Those of a call that has its features."""
        return cls(*(getattr(a, name) for name in cls._fields))

    def as_call(self) -> Arguments:
        """A call in which they arise; the features stand in for what it has beside them."""
        heads = 1 if self.mask is None else self.mask.shape[1]
        x = self.features[:, None].expand(-1, heads, -1, -1)
        spread = dict.fromkeys(("scale_query", "scale_key", "shape_query", "shape_key"), x)
        return Arguments(x, x, x, mode="mean", **spread, **self._asdict())


RELATIONS_SCHEMA = _schema(Relations)
MADE_OF = Relations._fields[: Relations._fields.index("mask")]
"""The fields that a ready-made correlation leaves out."""


def fold(name: str, grad: Tensor, argument: Tensor) -> Tensor:
    """The gradient of an argument from what kernels write: shares of what sequences share.

    Of `scale_bias` and `concentration` grad is (B, *argument.shape), of `time_table` too or
    (B, H, TIME_BUCKETS), of `bias` (B, H, n, m) and of `mixture` (B, 3); of the rest it has the
    argument's shape. The result has the argument's dtype.
    """
    if name in ("scale_bias", "concentration"):
        grad = grad.sum(0)
    elif name == "time_table":
        grad = grad.sum(0).sum_to_size(argument.shape)
    elif name in ("bias", "mixture") and grad.shape != argument.shape:
        grad = grad.sum_to_size(argument.shape)
    return grad if grad.dtype == argument.dtype else grad.to(argument.dtype)
