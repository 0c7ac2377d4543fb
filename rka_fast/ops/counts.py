"""What a co-occurrence matrix must be, and what becomes of one that is not."""

import torch
from torch import Tensor

from rka_fast.ops.shapes import boolean_padding, expect, is_tensor
from rka_fast.ops.tracing import is_traced

_REMEDY = (
    "Pass X.T @ X of a users-by-items incidence matrix X of zeros and ones with its diagonal kept: "
    "c_ij users have both items, c_ii users have item i. A cleared diagonal, usual elsewhere, "
    "would make all items unrelated"
)


def check_counts(cooccurrence: Tensor, key_padding_mask: Tensor | None = None) -> None:
    """Refuses what is no matrix of co-occurrence counts.

    Args:
        cooccurrence: (B, m, m) counts of users that have both items, the diagonal the users that
            have the item itself.
        key_padding_mask: bool (B, m), True where a key is padding, which is not looked at.

    Raises:
        ValueError, TypeError: where they are no tensors of these shapes, where an entry is not
            finite or negative, where the matrix is not symmetric, where a pair counts more than one
            of its items alone (c_ij > c_ii), and where there are no users who could give such
            counts: it is then no Gram matrix, which a Cholesky factor of c_ij / sqrt(c_ii c_jj)
            shows.

    Waits for the values, so it is for a place that is passed once; cubic in m.
    """
    is_tensor("cooccurrence", cooccurrence)
    if cooccurrence.dim() != 3 or cooccurrence.shape[1] != cooccurrence.shape[2]:
        raise ValueError(
            f"cooccurrence: expected shape (batch, keys, keys), got {tuple(cooccurrence.shape)}"
        )
    if key_padding_mask is not None:
        boolean_padding(is_tensor("key_padding_mask", key_padding_mask))
        expect("padding", key_padding_mask, tuple(cooccurrence.shape[:2]))
    counts = _of_existing(cooccurrence, key_padding_mask).double()
    support = counts.diagonal(dim1=-2, dim2=-1)
    margin = _rounding(cooccurrence)
    _refuse(~counts.isfinite(), counts, "finite counts")
    _refuse(counts < 0, counts, "counts, none of them negative")
    _refuse(
        (counts - counts.mT).abs() > margin * counts, counts, "a symmetric matrix (c_ij = c_ji)"
    )
    too_many = counts > support[:, :, None] * (1.0 + margin)
    if too_many.any():
        b, i, j = _first(too_many)
        raise ValueError(
            "cooccurrence: expected every item's own count on the diagonal (c_ii >= c_ij), got "
            f"c_ii = {counts[b, i, i]:g} and c_ij = {counts[b, i, j]:g} in sequence {b} for "
            f"positions i = {i} and j = {j}. {_REMEDY}"
        )
    root = support.sqrt() + (support == 0)
    correlation = counts / root[:, :, None] / root[:, None, :]
    correlation.diagonal(dim1=-2, dim2=-1).fill_(1.0 + counts.shape[-1] * margin)
    info = torch.linalg.cholesky_ex(correlation)[1]
    if info.any():
        b = int(info.nonzero()[0, 0])
        raise ValueError(
            "cooccurrence: expected a Gram matrix (positive semi-definite), got counts that no "
            f"set of users has: sequence {b}, the first {int(info[b])} positions. {_REMEDY}"
        )


def counts_or_nan(cooccurrence: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """The counts, refused if they are none: at once where values can be read without waiting.

    In compiled graphs, under function transforms and on devices the same elementwise rules turn
    what breaks them into NaN, which shows in the output of its sequence.
    """
    if cooccurrence.device.type == "cpu" and not is_traced():
        check_counts(cooccurrence, key_padding_mask)
        return cooccurrence
    if not cooccurrence.is_floating_point():
        cooccurrence = cooccurrence.to(torch.get_default_dtype())
    counts, margin = _of_existing(cooccurrence, key_padding_mask), _rounding(cooccurrence)
    support = counts.diagonal(dim1=-2, dim2=-1)[..., :, None] * (1.0 + margin)
    fine = (counts >= 0) & (counts <= support) & (counts <= support.mT)
    fine = fine & ((counts - counts.mT).abs() <= margin * counts)
    return torch.where(fine, cooccurrence, torch.nan)


def _of_existing(cooccurrence: Tensor, padding: Tensor | None) -> Tensor:
    if padding is None:
        return cooccurrence
    return cooccurrence.masked_fill(padding[..., :, None] | padding[..., None, :], 0)


def _rounding(cooccurrence: Tensor) -> float:
    """Relative; sums of whole numbers have none, but counts may have been scaled."""
    dtype = cooccurrence.dtype if cooccurrence.is_floating_point() else torch.float64
    return 4 * torch.finfo(dtype).eps


def _refuse(wrong: Tensor, counts: Tensor, expected: str) -> None:
    if wrong.any():
        b, i, j = _first(wrong)
        raise ValueError(
            f"cooccurrence: expected {expected}, got c_ij = {counts[b, i, j]:g} and c_ji = "
            f"{counts[b, j, i]:g} in sequence {b} for positions i = {i} and j = {j}. {_REMEDY}"
        )


def _first(wrong: Tensor) -> list[int]:
    return wrong.nonzero()[0].tolist()
