"""The arguments of the operator, in the order of its schema.

B sequences, H heads, n queries, m keys, dh head width, dv value width, df feature width.
"""

from typing import NamedTuple

from torch import Tensor


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
    # No gradient from here on.
    cooccurrence: Tensor | None = None  # (B, m, m) counts, diagonal = support
    mask: Tensor | None = None  # (B or 1, H or 1, n or 1, m) bool, True = may be attended
    padding: Tensor | None = None  # (B, m) bool, True = the key does not exist
    seed: Tensor | None = None  # one int64
    causal: bool = False
    mode: str = "location"  # sample | mean | location
    activation: str = "identity"
    dropout: float = 0.0
    jitter: float = 1e-4


DIFFERENTIABLE = Arguments._fields[: Arguments._fields.index("cooccurrence")]
