"""Nested tensors: sequences of different length without padding, as encoders pass them."""

from typing import Any

import torch
from torch import Tensor

from rka_fast.context import told


def attend(
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """`attention` on nested tensors (B, *, width): padded for the call, the output nested as query.

    Mask and counts may be as large as the longest sequence or larger.
    """
    if not attention.batch_first or not (query.is_nested and key.is_nested and value.is_nested):
        raise ValueError(
            "query, key, value: expected three nested tensors and batch_first=True, or none, got "
            f"{[x.is_nested for x in (query, key, value)]} and batch_first={attention.batch_first}"
        )
    if key_padding_mask is not None:
        raise ValueError(
            "key_padding_mask: expected None with nested tensors, which have no padding; pass a "
            "padded tensor with its mask, or the nested one alone"
        )
    counts = options["cooccurrence"]
    counts = told(attention).cooccurrence if counts is None else counts
    sized = counts if attn_mask is None else attn_mask
    rows, keys = (None, None) if sized is None else sized.shape[-2:]
    padded_query = _pad(query, rows)
    padded_key = padded_query if key is query else _pad(key, keys)
    padded_value = padded_key if value is key else _pad(value, keys)
    padding = ~_present(key, padded_key.shape[1])
    output, weights = attention.forward(
        padded_query, padded_key, padded_value, padding, attn_mask=attn_mask, **options
    )
    return _nest(output, query), weights


def _pad(x: Tensor, length: int | None) -> Tensor:
    """The nested tensor as (B, length or the longest, width), zeros at the end."""
    size = None if length is None else (x.size(0), length, x.size(-1))
    return torch.nested.to_padded_tensor(x, 0.0, size)


def _lengths(x: Tensor) -> list[int]:
    return [len(sequence) for sequence in x.unbind()]


def _present(x: Tensor, longest: int) -> Tensor:
    """Bool (B, longest): where the nested tensor has a position."""
    lengths = torch.tensor(_lengths(x), device=x.device)
    return torch.arange(longest, device=x.device) < lengths[:, None]


def _nest(padded: Tensor, like: Tensor) -> Tensor:
    """The padded tensor without padding, in the layout of `like`."""
    if like.layout == torch.jagged:
        values = padded[_present(like, padded.shape[1])]
        return torch.nested.nested_tensor_from_jagged(values, like.offsets())  # pyright: ignore[reportAttributeAccessIssue]
    rows = [x[:n] for x, n in zip(padded, _lengths(like), strict=True)]
    return torch.nested.as_nested_tensor(rows)
