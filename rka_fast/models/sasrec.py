"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

The embeddings, the blocks and the score are the paper's. Ours: an output projection of the
attention, which RKSA has too, a final normalisation as in the authors' program, and cross-entropy
over all items as the default loss, which ranks better; "bce" is the paper's.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.models.folded import answer, ask, of_heads, pays, unprojected
from rka_fast.models.relative import RelativeBias, Times, relative_bias
from rka_fast.models.transformer import TransformerRecommender
from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.groups import Location


class CausalAttention(nn.Module):
    """Plain causal attention through scaled_dot_product_attention.

    With a relative bias through the operator, which never holds the bias of the times as a matrix.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, relative: RelativeBias | None = None
    ) -> None:
        super().__init__()
        self.relative = relative
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, query: Tensor, x: Tensor, padding: Tensor, times: Times | None = None
    ) -> Tensor:
        if pays(query, self.heads, self.query, self.key_value, self.output):
            weights, biases = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
            key, value = (of_heads(self.heads, *y) for y in zip(weights, biases, strict=True))
            q = ask(query, of_heads(self.heads, self.query.weight, self.query.bias), key)
            k = unprojected(x.to(q.dtype), self.heads)
            return answer(self._attend(q, k, k, padding, times), value, self.output)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.query(query), *self.key_value(x).chunk(2, dim=-1))
        )
        output = self._attend(q, k, v, padding, times)
        return self.output(output.transpose(1, 2).flatten(2))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor, times: Times | None
    ) -> Tensor:
        """(b, heads, rows, width of v) for the last rows of the keys."""
        rows, n, dropout = q.shape[2], k.shape[2], self.dropout if self.training else 0.0
        if self.relative is not None:
            bias, relative = self.relative(rows, n, times)
            return kernelized_attention(
                Location(q, k, None if bias is None else bias[None, None], relative), v,
                key_padding_mask=padding, is_causal=True, mode="location", activation="identity",
                dropout_p=dropout, row_offset=n - rows,
            )  # fmt: skip
        if rows < n:  # the last position alone, which sees all
            return F.scaled_dot_product_attention(q, k, v, ~padding[:, None, None, :], dropout)
        mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        # Padded rows see themselves, so that no row is empty; what they give is blanked later.
        mask = mask & ~padding[:, None, None, :] | torch.eye(n, dtype=torch.bool, device=q.device)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)


class SASRec(TransformerRecommender):
    """RKSA's blocks with plain attention and no kernel loss."""

    title = "SASRec"

    def __init__(
        self,
        num_items: int,
        features: np.ndarray | None = None,
        *,
        max_length: int = 50,
        width: int = 50,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        block: str = "sasrec",
        expansion: int | None = None,
        temperature: float | None = None,
        tied: bool = True,
        time_bias: bool = False,
        position_bias: bool = False,
    ) -> None:
        attentions = [
            CausalAttention(
                width, heads, dropout, relative_bias(max_length, time_bias, position_bias)
            )
            for _ in range(blocks)
        ]
        super().__init__(
            num_items, attentions, max_length, width, dropout, block=block, expansion=expansion,
            temperature=temperature, tied=tied, uses_times=time_bias,
            features=features,
        )  # fmt: skip
