"""The readable truth: kernelized attention in plain PyTorch, forward and hand-written backward.

`attention` is differentiable by autograd as it stands; `attention_backward` spells the same
gradients out, as every backend computes them. Half precisions are computed in float32; float32
and float64 stay as they are.
"""

# The tensors that a mode needs are there: ops/check.py has seen to it.
# pyright: reportArgumentType=false, reportCallIssue=false

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments, Relations
from rka_fast.ops.reference import covariance, philox, skew_normal, times

_ACTIVATIONS = {
    "identity": lambda x: x,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "relu": F.relu,
    "tanh": torch.tanh,
}
_DERIVATIVES = {
    "identity": torch.ones_like,
    "leaky_relu": lambda x: torch.where(x > 0, torch.ones_like(x), 0.01),
    "relu": lambda x: (x > 0).to(x.dtype),
    "tanh": lambda x: 1.0 - torch.tanh(x) ** 2,
}


def attention(a: Arguments) -> Tensor:
    """softmax(Z) V of shape (batch, heads, queries, value width), in value's dtype."""
    return _forward(prepare(a)).output.to(a.value.dtype)


def attention_backward(grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
    """Gradients of the arguments at the positions `needs` of the schema, in their dtypes.

    Nothing is kept from the forward pass: the noise comes back from the seed, the rest from the
    inputs.
    """
    original, a = a, prepare(a)
    forward = _forward(a)
    grads = dict.fromkeys(DIFFERENTIABLE)
    grad = grad.to(forward.output.dtype)

    dropped = forward.weights if forward.keep is None else forward.weights * forward.keep
    grads["value"] = dropped.mT @ grad
    d_weights = grad @ a.value.mT
    if forward.keep is not None:
        d_weights = d_weights * forward.keep
    dz = forward.weights * (d_weights - (forward.weights * d_weights).sum(-1, keepdim=True))

    derivative = _DERIVATIVES[a.activation]
    d_location = dz * derivative(forward.location)
    grads["query"], grads["key"] = _scores_backward(d_location, a.query, a.key, a.scale)
    grads["bias"] = None if a.bias is None else dz.sum_to_size(a.bias.shape)
    if a.time_table is not None:
        grads["time_table"] = times.bias_backward(dz, a.time_table, forward.bucket)
    if a.mode != "location":
        _spread_backward(dz, a, forward.spread, derivative, grads)

    if a.padding is not None:
        for name in ("key", "value", "scale_key", "shape_key"):
            grads[name] = _blank(grads[name], a.padding)
    return [like(grads[DIFFERENTIABLE[i]], original[i]) for i in needs]


def scores(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """q k' scale: (batch, heads, queries, keys); scale is 1 / sqrt(head width) by default."""
    products = query @ key.mT
    return products / math.sqrt(query.shape[-1]) if scale is None else products * scale


def allowed_pairs(a: Arguments) -> Tensor:
    """M of shape (batch or 1, heads or 1, rows, keys): True where row t may see key j."""
    rows, keys = a.query.shape[2], a.key.shape[2]
    allowed = torch.ones(1, 1, rows, keys, dtype=torch.bool, device=a.query.device)
    if a.causal:
        allowed = allowed.tril(a.row_offset)
    if a.mask is not None:
        allowed = allowed & a.mask
    if a.padding is not None:
        allowed = allowed & ~a.padding[:, None, None, :]
    return allowed


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); PyTorch takes x itself from 20 on, which float64 can tell from it."""
    return F.softplus(x, threshold=40 if x.dtype == torch.float64 else 20)


def masked_softmax(z: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; a row that may see nothing is all zeros."""
    lowest = torch.finfo(z.dtype).min
    return torch.softmax(z.masked_fill(~allowed, lowest), dim=-1).masked_fill(~allowed, 0.0)


def prepare(a: Arguments) -> Arguments:
    """Everything in the dtype of the computation, keys that do not exist blanked.

    What such a key holds (even NaN) must reach neither values nor gradients.
    """
    dtype = torch.promote_types(a.query.dtype, torch.float32)
    floats = (*DIFFERENTIABLE, "cooccurrence", "prior")
    a = a._replace(
        **{n: x.to(dtype) for n in floats if (x := getattr(a, n)) is not None},
    )
    if a.padding is None:
        return a
    keys = ("key", "value", "scale_key", "shape_key")
    a = a._replace(**{n: _blank(getattr(a, n), a.padding) for n in keys})
    if a.features is not None:
        a = a._replace(features=a.features.masked_fill(a.padding[:, :, None], 0.0))
    return a


class Spread(NamedTuple):
    """What covariance and shape make of the logits: (batch, heads, rows, keys) each, but
    correlation K and factor L (batch, 1, keys, keys), prior (batch or 1, heads or 1, rows, keys).

    Without a shape alpha, shape, prior and skew are None; the mean has no factor, noise and draw.
    """

    scale: Tensor  # before softplus
    correlation: Tensor
    deviates: Tensor  # S: of mean 0 and covariance K, skewed by alpha; in mean mode their mean
    shape: Tensor | None = None  # before the activation
    prior: Tensor | None = None
    alpha: Tensor | None = None
    skew: skew_normal.Skewness | None = None
    factor: Tensor | None = None
    noise: Tensor | None = None  # E
    draw: skew_normal.Draw | None = None


class Forward(NamedTuple):
    """The output (batch, heads, rows, value width) and what its gradient reads."""

    output: Tensor
    location: Tensor  # (batch, heads, rows, keys) before the activation
    weights: Tensor  # (batch, heads, rows, keys) after the softmax
    keep: Tensor | None  # like weights: 0 or 1 / (1 - dropout)
    spread: Spread | None
    bucket: Tensor | None  # (batch, rows, keys) of the relative times


def _forward(a: Arguments) -> Forward:
    activation = _ACTIVATIONS[a.activation]
    allowed = allowed_pairs(a)
    spread = bucket = keep = None
    location = scores(a.query, a.key, a.scale)
    z = activation(location)
    if a.bias is not None:
        z = z + a.bias
    if a.time_table is not None:
        bucket = times.buckets(a.row_times, a.key_times)
        z = z + times.bias(a.time_table, bucket)
    if a.mode != "location":
        spread = _spread(a, allowed, activation)
        z = z + softplus(spread.scale) * spread.deviates
    weights = masked_softmax(z, allowed)
    if a.dropout > 0.0:
        u = philox.dropout_uniforms(a.seed, *z.shape[:2], _positions(a), z.shape[3], z.dtype)
        keep = (u >= a.dropout).to(z.dtype) / (1.0 - a.dropout)
    output = (weights if keep is None else weights * keep) @ a.value
    return Forward(output, location, weights, keep, spread, bucket)


def correlation_of(a: Arguments) -> Tensor:
    """K of the keys, made or given: (batch, keys, keys)."""
    if a.correlation is not None:
        return a.correlation
    return covariance.correlation(Relations.of(a))


def _spread(a: Arguments, allowed: Tensor, activation: Callable[[Tensor], Tensor]) -> Spread:
    scale = scores(a.scale_query, a.scale_key)
    if a.scale_bias is not None:
        scale = scale + a.scale_bias[:, None, None]
    correlation = correlation_of(a).unsqueeze(1)
    spread = Spread(scale, correlation, deviates=torch.zeros_like(scale))
    if a.shape_query is not None:
        shape = scores(a.shape_query, a.shape_key)
        prior = allowed.to(shape.dtype)
        if a.prior is not None:
            prior = torch.where(allowed, a.prior, 0.0)
        elif a.cooccurrence is not None:
            prior = covariance.shape_prior(a.cooccurrence, allowed, a.row_offset)
        alpha = activation(shape) * prior
        skew = skew_normal.skewness(alpha, correlation)
        spread = spread._replace(shape=shape, prior=prior, alpha=alpha, skew=skew)
    if a.mode == "mean":
        if spread.skew is None:  # of normal logits the mean is the location
            return spread
        return spread._replace(deviates=skew_normal.mean(spread.skew))
    batch, heads, _, keys = scale.shape
    if a.factor is None:
        factor = covariance.cholesky(correlation, a.jitter)
    else:  # laid out by columns, as LAPACK's are: the same products to the bit
        factor = a.factor.tril().mT.contiguous().mT.unsqueeze(1)
    noise = philox.normals(a.seed, batch, heads, _positions(a), keys, scale.dtype)
    spread = spread._replace(factor=factor, noise=noise)
    if spread.skew is None:
        return spread._replace(deviates=noise @ factor.mT)
    skew_noise = philox.skew_noise(a.seed, batch, heads, _positions(a), scale.dtype)
    draw = skew_normal.sample(spread.alpha, spread.skew, factor, noise, skew_noise)
    return spread._replace(deviates=draw.deviates, draw=draw)


def _spread_backward(
    dz: Tensor, a: Arguments, spread: Spread, derivative: Callable[[Tensor], Tensor], grads: dict
) -> None:
    """Gradients of the scale, shape and covariance arguments from that of the logits."""
    d_scale = dz * spread.deviates * torch.sigmoid(spread.scale)
    grads["scale_query"], grads["scale_key"] = _scores_backward(d_scale, a.scale_query, a.scale_key)
    grads["scale_bias"] = None if a.scale_bias is None else d_scale.sum((0, 2, 3))
    d_deviates = dz * softplus(spread.scale)
    d_alpha = d_factor = d_correlation = None
    if a.mode == "mean":
        if spread.alpha is None:
            return
        d_alpha, d_correlation = skew_normal.mean_backward(
            d_deviates, spread.alpha, spread.correlation, spread.skew
        )
        d_correlation = d_correlation.sum(1)
    elif spread.alpha is None:
        assert spread.noise is not None  # there was a draw
        d_factor = (d_deviates.mT @ spread.noise).sum(1)
    else:
        d_alpha, d_correlation, d_factor = skew_normal.sample_backward(
            d_deviates, spread.alpha, spread.correlation, spread.skew, spread.noise, spread.draw
        )
        d_correlation, d_factor = d_correlation.sum(1), d_factor.sum(1)
    if a.correlation is not None:
        grads["correlation"] = d_correlation
        grads["factor"] = None if d_factor is None else d_factor.tril()
    elif d_factor is not None:
        through_factor = covariance.cholesky_backward(d_factor, spread.factor.squeeze(1))
        d_correlation = through_factor if d_correlation is None else d_correlation + through_factor
    if d_alpha is not None:
        d_shape = spread.prior * d_alpha * derivative(spread.shape)
        grads["shape_query"], grads["shape_key"] = _scores_backward(
            d_shape, a.shape_query, a.shape_key
        )
    if a.correlation is not None:
        return
    names = ("features", "concentration", "mixture", "gate")
    found = covariance.correlation_backward(d_correlation, Relations.of(a))
    grads.update(zip(names, found, strict=True))


def _scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    grad = grad / math.sqrt(query.shape[-1]) if scale is None else grad * scale
    return grad @ key, grad.mT @ query


def _positions(a: Arguments) -> range:
    """The rows as the noise counts them."""
    return range(a.row_offset, a.row_offset + a.query.shape[2])


def _blank(x: Tensor | None, padding: Tensor) -> Tensor | None:
    """x (batch, heads, keys, width) with zeros at the keys that do not exist."""
    return None if x is None else x.masked_fill(padding[:, None, :, None], 0.0)


def like(grad: Tensor | None, argument: Tensor) -> Tensor:
    """The gradient as the argument's own dtype; zeros where the argument had no effect."""
    if grad is None:
        return argument.new_zeros(argument.shape)  # contiguous, as the fake kernel says
    return grad.to(argument.dtype).contiguous()
