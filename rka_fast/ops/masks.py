"""What masks, padding and biases hide, as the operator gets it: made boolean once, here."""

import torch
from torch import Tensor

from rka_fast.ops import check
from rka_fast.ops.groups import Location

HIDDEN_BELOW = 5000.0
"""A bias so far below the row's largest hides its key: under all that foreign code writes for
-inf (-9,984 is -1e4 in bfloat16), over ALiBi's slopes (below 1) times 4,096 positions."""
_LOWEST_BIAS = -1e30  # so far down all finite biases round to the same; sums stay finite


def hide_far_below(
    location: Location, mask: Tensor | None, padding: Tensor | None, last: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """The mask without the keys that the bias hides, and a bias that is finite where it is seen.

    The rule is made boolean here and nowhere else, without a gradient through the comparison.
    last: row t sees keys up to t + last when causal.
    """
    bias = location.bias
    if bias is None:
        return mask, bias
    check.bias(location)
    if bias.shape[-1] == 0:
        return mask, bias
    if mask is not None:
        check.mask(mask, location)
    if padding is not None:
        check.padding(padding, location)
    rows, keys = location.query.shape[2], location.key.shape[2]
    given = bias.detach().to(torch.promote_types(bias.dtype, torch.float32))
    seen = given
    if mask is not None:
        seen = torch.where(mask, seen, -torch.inf)
    if padding is not None:
        seen = torch.where(padding[:, None, None, :], -torch.inf, seen)
    if last is not None:
        earlier = torch.ones(rows, keys, dtype=torch.bool, device=bias.device).tril(last)
        seen = torch.where(earlier, seen, -torch.inf)
    largest = seen.amax(-1, keepdim=True)
    hidden = (given < largest - HIDDEN_BELOW) | (given == -torch.inf)  # NaN hides nothing
    bias = bias.clamp_min(max(torch.finfo(bias.dtype).min, _LOWEST_BIAS))
    return ~hidden if mask is None else mask & ~hidden, bias


def normalise_masks(
    mask: Tensor | None, padding: Tensor | None, last: int | None, location: Location
) -> tuple[Tensor | None, Tensor | None]:
    """The mask as four dimensions; a key that no query may see counts as padding."""
    if mask is None:
        return None, padding
    check.mask(mask, location)
    mask = mask[(None,) * (4 - mask.dim())]
    batch, _, rows, keys = (*location.query.shape[:3], location.key.shape[-2])
    seen = mask.expand(-1, -1, rows, keys)
    if last is not None:
        seen = seen.tril(last)
    unseen = ~seen.any(dim=1).any(dim=1).expand(batch, keys)
    return mask, unseen if padding is None else padding | unseen
