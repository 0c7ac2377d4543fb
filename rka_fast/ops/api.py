"""`kernelized_attention`: validate, complete, choose a backend, call the operator."""

from collections.abc import Callable
from operator import index
from typing import Any, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from rka_fast.ops import check, library, relations, shapes
from rka_fast.ops.arguments import Arguments, Relations
from rka_fast.ops.backends import choose
from rka_fast.ops.counts import counts_or_nan
from rka_fast.ops.groups import Covariance, Kernels, Location, RelationFactor, Shape
from rka_fast.ops.masks import hide_far_below, normalise_masks
from rka_fast.ops.shapes import is_tensor

DEFAULT_CONCENTRATION = 2.0
DEFAULT_JITTER = 1e-4
SEED_STEP = 0x9E3779B97F4A7C15
"""Between the seeds of a call's draws: so far apart that those of seeds 0, 1, 2 do not meet."""


def kernelized_attention(
    location: Location,
    value: Tensor,
    covariance: Covariance | None = None,
    shape: Shape | None = None,
    *,
    mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    mode: str = "sample",
    activation: str = "leaky_relu",
    dropout_p: float = 0.0,
    seed: Tensor | SupportsIndex | None = None,
    jitter: float = DEFAULT_JITTER,
    scale: float | None = None,
    row_offset: int = 0,
    draws: int | None = None,
    enable_gqa: bool = False,
    check_counts: bool = True,
    backend: str | Callable[[Arguments], Tensor] = "auto",
) -> Tensor:
    """Attention whose logits are multivariate skew-normal: softmax(Z) V, Z_t ~ MSN(xi, Sigma, a).

    Relation-Aware Kernelized Self-Attention (Ji et al., AAAI 2020, arXiv 1911.06478), with every
    position as the last item of its own prefix. Differentiable (pathwise) in every float input
    except the co-occurrence.

    Args:
        location, covariance, shape: see the groups `Location`, `Covariance` and `Shape`. Without
            a shape the logits are normal; without a covariance only mode "location" is possible.
        value: (B, H, m, dv).
        mask: bool, broadcastable to (B, H, n, m), **True where a query may see a key** (as in
            `scaled_dot_product_attention`).
        key_padding_mask: bool (B, m), **True where a key is padding** (as in
            `nn.MultiheadAttention`). Padding, like every key that no query may see, has no
            influence at all (its counts must be finite). A key hidden from some rows only leaves
            the distribution of these rows untouched; their draws may still move with it, because
            the rows share one factor.
        is_causal: query t sees keys 0..t; needs n = m, or a row_offset.
        mode: "sample" (one draw), "mean" (exact mean of the logits) or "location" (no spread).
        activation: f of location and shape: identity, leaky_relu, relu or tanh.
        dropout_p: probability of dropping an attention weight, drawn from the seed.
        seed: an int or a tensor of one int64; the same seed gives the same bits. By default drawn
            from PyTorch's generator.
        jitter: K becomes (K + jitter I) / (1 + jitter).
        scale: of the products of location.query and location.key, as in
            `scaled_dot_product_attention`; those of scale and shape keep their 1 / sqrt(dh).
        row_offset: query t is key t + row_offset, for noise, dropout, is_causal and the prior: a
            call with the last queries of a sequence draws what they draw in a call with all, if
            masks leave the same keys.
        draws: as many draws in one call, which shares between them all but the noise and what
            follows it. Draw s is bit for bit that of a call with seed[s], of a seed (draws,); an
            int or a tensor of one element stands for seed + s * 0x9E3779B97F4A7C15 (modulo 2^64).
        enable_gqa: keys and values may have fewer heads than the queries, a divisor of their
            number; consecutive query heads share one (as in `scaled_dot_product_attention`).
        check_counts: whether the co-occurrence is looked at, as `rka_fast.check_counts` does it: in
            eager on the CPU what is no Gram matrix of counts is refused; compiled or on a device,
            where nobody waits for values, counts above their items' own become NaN. False where
            the counts are right by construction.
        backend: "auto" or a name out of `available_backends()`; or a function that computes the
            output from the validated, complete `Arguments`.

    Returns:
        (B, H, n, dv), or with draws (draws, B, H, n, dv), in value's dtype; rows that may see no
        key are zero.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what was given.
    """
    check.groups(location, covariance, shape)
    is_tensor("value", value)
    check.flags(is_causal=is_causal, enable_gqa=enable_gqa, check_counts=check_counts)
    check.scale(scale)
    check.row_offset(row_offset)
    if enable_gqa:
        location, value, covariance, shape = _share_heads(location, value, covariance, shape)
    last = row_offset if is_causal else None
    mask, bias = hide_far_below(location, mask, key_padding_mask, last)
    mask, padding = normalise_masks(mask, key_padding_mask, last, location)
    arguments = Arguments(
        *location[:2],
        value,
        bias,
        mask=mask,
        padding=padding,
        causal=is_causal,
        mode=mode,
        activation=activation,
        dropout=_number("dropout_p", dropout_p),
        jitter=_number("jitter", jitter),
        scale=None if scale is None else float(scale),
        row_offset=row_offset,
        draws=draws,
    )
    if location.times is not None:
        check.times(location.times)
        rows, keys, table = location.times
        arguments = arguments._replace(time_table=table, row_times=rows, key_times=keys)
    check.options(arguments, has_covariance=covariance is not None)
    if draws is not None:
        check.draws(draws, mode, arguments.dropout)
    if covariance is not None and mode != "location":
        arguments = _with_covariance(arguments, covariance, shape)
    if seed is not None or mode == "sample" or dropout_p > 0.0:
        arguments = arguments._replace(seed=as_seed(seed, value.device, draws))
    shapes.tensors(arguments)
    if check_counts and arguments.cooccurrence is not None:
        counts = counts_or_nan(arguments.cooccurrence, arguments.padding)
        arguments = arguments._replace(cooccurrence=counts)
    if callable(backend):
        with library.own_precision(value):
            return backend(arguments)
    return library.call(*arguments, choose(backend, arguments))


def relation_factor(
    kernels: Kernels,
    *,
    mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    jitter: float = DEFAULT_JITTER,
    check_counts: bool = True,
    backend: str = "auto",
) -> RelationFactor:
    """K, its factor and the prior once, for all calls that share relations and masks.

    `Covariance(query, key, relation_factor(kernels, ...))` in place of `Covariance(query, key,
    kernels)` gives the same results, where mask, key_padding_mask, is_causal and jitter are those
    of the call: blocks and heads that relate the same items then factor K once, and the gradients
    of their calls are summed before they go back through the factor. Keys that a call hides by its
    bias are to be hidden here by the mask.

    Args:
        kernels, mask, key_padding_mask, is_causal, jitter, check_counts: as in
            `kernelized_attention`, of queries that are the keys (n = m).
        backend: "auto", "cpp" or "reference"; the others take no ready-made relations yet.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what was given.
    """
    if not isinstance(kernels, Kernels):
        raise TypeError(
            f"kernels: expected rka_fast.Kernels({', '.join(Kernels._fields)}), got "
            f"{type(kernels).__name__}"
        )
    check.flags(is_causal=is_causal, check_counts=check_counts)
    features = is_tensor("kernels.features", kernels.features)
    if features.dim() != 3:
        raise ValueError(
            "kernels.features: expected 3 dimensions (batch, keys, width), got shape "
            f"{tuple(features.shape)}"
        )
    x = features[:, None]
    if mask is not None and is_tensor("mask", mask).dim() > 2:
        x = x.expand(-1, mask.shape[-3], -1, -1)
    if key_padding_mask is not None:
        check.padding(key_padding_mask, Location(x, x))
    last = 0 if is_causal else None
    mask, padding = normalise_masks(mask, key_padding_mask, last, Location(x, x))
    made_of = Relations(
        **_completed(kernels)._asdict(),
        mask=mask,
        padding=padding,
        causal=is_causal,
        jitter=_number("jitter", jitter),
    )
    check.relations(made_of)
    if check_counts and made_of.cooccurrence is not None:
        made_of = made_of._replace(cooccurrence=counts_or_nan(made_of.cooccurrence, padding))
    # Its backend is one that serves the calls: the others read no correlation.
    name = choose(backend, Arguments(x, x, x, correlation=features))
    correlation, factor, prior = relations.call(*made_of, name)
    return RelationFactor(correlation, factor, None if kernels.cooccurrence is None else prior)


def _share_heads(
    location: Location, value: Tensor, covariance: Covariance | None, shape: Shape | None
) -> tuple[Location, Tensor, Covariance | None, Shape | None]:
    """Keys and values with as many heads as the queries, each repeated for its group of them."""
    shapes.ranks(location.query, location.key)
    heads = location.query.shape[1]

    def repeat(name: str, x: Tensor) -> Tensor:
        given = x.shape[1] if x.dim() == 4 else 0
        if given == 0 or heads % given != 0:
            raise ValueError(
                f"{name}: expected (batch, heads, length, width) with a divisor of the queries' "
                f"{heads} heads for enable_gqa=True, got shape {tuple(x.shape)}"
            )
        return x if given == heads else x.repeat_interleave(heads // given, dim=1)

    location = location._replace(key=repeat("location.key", location.key))
    if covariance is not None:
        covariance = covariance._replace(key=repeat("covariance.key", covariance.key))
    if shape is not None:
        shape = shape._replace(key=repeat("shape.key", shape.key))
    return location, repeat("value", value), covariance, shape


def as_seed(
    seed: Tensor | SupportsIndex | None, device: torch.device, draws: int | None = None
) -> Tensor:
    """One int64 on `device`, or one for each draw: given, or drawn from PyTorch's generator."""
    if seed is None:
        return torch.randint(2**63 - 1, () if draws is None else (draws,), device=device)
    if not isinstance(seed, Tensor):
        seed = torch.tensor(_wrapped(_whole_number(seed)), device=device)  # any 64 bits
    if draws is None or seed.numel() != 1 or seed.dtype != torch.int64:
        return seed  # as it is, or to be refused
    return seed.reshape(1) + torch.arange(draws, device=seed.device) * _wrapped(SEED_STEP)


def _number(name: str, x: Any) -> float:
    given: Any = None if isinstance(x, bool) else x
    try:
        return float(given)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {type(x).__name__}") from None


def _whole_number(seed: Any) -> int:
    given: Any = None if isinstance(seed, bool) else seed
    try:
        return index(given)  # NumPy's integers too
    except TypeError:
        raise TypeError(
            f"seed: expected an int or a tensor of one int64, got {type(seed).__name__}"
        ) from None


def _wrapped(x: int) -> int:
    """The int64 with the same last 64 bits."""
    return (x + 2**63) % 2**64 - 2**63


def _with_covariance(a: Arguments, covariance: Covariance, shape: Shape | None) -> Arguments:
    """The arguments with the spread of the logits."""
    a = a._replace(
        scale_query=covariance.query,
        scale_key=covariance.key,
        scale_bias=covariance.bias,
        shape_query=None if shape is None else shape.query,
        shape_key=None if shape is None else shape.key,
    )
    if isinstance(covariance.kernels, RelationFactor):
        for name, x in zip(("correlation", "factor"), covariance.kernels[:2], strict=True):
            is_tensor(f"covariance.kernels.{name}", x)
        return a._replace(**covariance.kernels._asdict())
    if not isinstance(covariance.kernels, Kernels):
        raise TypeError(
            f"covariance.kernels: expected rka_fast.Kernels({', '.join(Kernels._fields)}) or what "
            f"relation_factor makes of them, got {type(covariance.kernels).__name__}"
        )
    kernels = _completed(covariance.kernels)
    return a._replace(**kernels._asdict())


def _completed(kernels: Kernels) -> Kernels:
    """With concentration and mixture, the weights of missing kernels dropped."""
    features = is_tensor("covariance.kernels.features", kernels.features)
    dtype = torch.promote_types(features.dtype, torch.float32)
    mixture, concentration = kernels.mixture, kernels.concentration
    if concentration is None:
        concentration = features.new_full((2,), DEFAULT_CONCENTRATION, dtype=dtype)
    if mixture is None:
        mixture = features.new_ones((1, 3), dtype=dtype)
    check.mixture(mixture, features)
    if mixture.shape[-1] == 3:  # of counting, item and user kernel, those that are there
        first, end = int(kernels.cooccurrence is None), 2 + (kernels.gate is not None)
        if (first, end) != (0, 3):
            mixture = F.pad(mixture[:, first:end], (first, 3 - end))
        mixture = mixture / mixture.sum(-1, keepdim=True)
    return kernels._replace(concentration=concentration, mixture=mixture)
