"""RKSA: Relation-Aware Kernelized Self-Attention (Ji et al., AAAI 2020, arXiv 1911.06478).

The blocks, the score and the skew-normal attention are the paper's. Ours: every position is the
last item of its own prefix, leave-self-out counts, the kernels on item embeddings shared by the
blocks, the gated user kernel, and the form of the kernel loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.attention import KernelizedAttention
from rka_fast.context import told
from rka_fast.kernels import RelationKernels
from rka_fast.models.folded import answer, ask, of_heads, pays, unprojected
from rka_fast.models.groups import LengthGroups
from rka_fast.models.losses import kernel_loss
from rka_fast.models.relative import RelativeBias, Times, relative_bias
from rka_fast.models.transformer import TransformerRecommender
from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.arguments import TIME_BUCKETS, Arguments
from rka_fast.ops.backends import choose
from rka_fast.ops.groups import Covariance, Kernels, Location, RelativeTimes, Shape

if TYPE_CHECKING:
    from rka_fast.data.batches import Batch

KERNELS = ("cooccurrence", "item", "user")
"""The kernels, in the order of the mixture."""


def parse_kernels(text: str) -> set[str]:
    """The kernels named in comma-separated text. Raises ValueError where they cannot be used."""
    names = {name.strip() for name in text.split(",")}
    if not names <= set(KERNELS) or names == {"user"}:
        raise ValueError(
            "kernels must name cooccurrence or item or both, and may name user, "
            f"comma-separated, got {text!r}"
        )
    return names


class RelationAttention(nn.Module):
    """Causal kernelized attention on kernels that the model made once for all blocks."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        activation: str,
        backend: str,
        train_mode: str,
        eval_mode: str,
        initial_scale: float,
        relative: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        self.relative = relative
        self.train_mode, self.eval_mode = train_mode, eval_mode
        self.attention = KernelizedAttention(
            width, heads, dropout, batch_first=True, activation=activation, backend=backend,
            own_kernels=False, initial_scale=initial_scale,
        )  # fmt: skip

    def forward(
        self,
        query: Tensor,
        x: Tensor,
        padding: Tensor,
        kernels: Kernels,
        times: Times | None = None,
    ) -> Tensor:
        bias = relative = None
        if self.relative is not None:
            bias, relative = self.relative(query.shape[1], x.shape[1], times)
        own = self.attention
        mode = told(own).mode or (self.train_mode if self.training else self.eval_mode)
        # as explanations do, which want its weights, or pruned: then calling makes them
        hooked = own._forward_hooks or len(own._forward_pre_hooks) > 1  # one is its own
        watched = bool(hooked) or "in_proj_weight" not in own._parameters
        layers = (own.spread_query, own.spread_key, own.out_proj)
        if not watched and pays(query, own.num_heads, *layers):
            return self._folded(query, x, padding, kernels, mode, bias, relative)
        return own(
            query, x, x, key_padding_mask=padding, need_weights=False, is_causal=True, mode=mode,
            kernels=kernels, attn_mask=bias, times=relative,
            row_offset=x.shape[1] - query.shape[1],  # the last positions alone may be asked for
        )[0]  # fmt: skip

    def _folded(
        self,
        query: Tensor,
        x: Tensor,
        padding: Tensor,
        kernels: Kernels,
        mode: str,
        bias: Tensor | None,
        relative: RelativeTimes | None,
    ) -> Tensor:
        """What the module computes, and draws, without projected keys and values."""
        own, heads, width = self.attention, self.attention.num_heads, query.shape[2]
        (q, k, v), biases = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)

        def joined(location: Tensor, bias: Tensor, spread: nn.Linear) -> Tensor:
            """Of location, scale and shape; only the first has a bias."""
            weight, bias = torch.cat((location, spread.weight)), F.pad(bias, (0, 2 * width))
            return of_heads(3 * heads, weight, bias)

        asked = joined(q, biases[0], own.spread_query), joined(k, biases[1], own.spread_key)
        location, scale, shape = ask(query, *asked).chunk(3, dim=1)
        keys = unprojected(x.to(location.dtype), heads)
        output = kernelized_attention(
            Location(location, keys, None if bias is None else bias[None, None], relative), keys,
            Covariance(scale, keys, kernels, own.scale_bias), Shape(shape, keys),
            key_padding_mask=padding, is_causal=True, mode=mode, activation=own.activation,
            dropout_p=own.dropout if self.training else 0.0,
            row_offset=x.shape[1] - query.shape[1], check_counts=False, backend=own.backend,
        )  # fmt: skip
        return answer(output, of_heads(heads, v, biases[2]), own.out_proj)


class RKSA(TransformerRecommender):
    """The recommender.

    Args:
        num_items, num_users: size of the catalogue; items count from 1 (0 is padding), users from
            0 (-1 is a person without a user vector).
        features: of the items, as in `TransformerRecommender`.
        max_length, width, blocks, heads, dropout: as in SASRec.
        time_bias, position_bias: as in `RelativeBias`.
        block, expansion, temperature, tied: as in `TransformerRecommender`.
        activation: f of location and shape.
        kernel_weight: weight of the loss term in which the item kernel explains the counting
            kernel; 0 leaves it out.
        train_mode, eval_mode: "mean", "sample" or "location", in training and in evaluation.
        kernels: those of the covariance, comma-separated. The user kernel cannot be alone, since
            a person without a user vector has none.
        initial_scale: where the standard deviation of the logits starts.
        backend: of the attention operator.
    """

    title = "RKSA"
    used: Tensor  # (3,) float, 1 for the kernels that are used
    uses_cooccurrence = True

    def __init__(
        self,
        num_items: int,
        num_users: int,
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
        activation: str = "leaky_relu",
        kernel_weight: float = 0.5,
        train_mode: str = "sample",
        eval_mode: str = "mean",
        kernels: str = ",".join(KERNELS),
        initial_scale: float = 0.5,
        backend: str = "auto",
    ) -> None:
        attentions = [
            RelationAttention(
                width,
                heads,
                dropout,
                activation,
                backend,
                train_mode,
                eval_mode,
                initial_scale,
                relative_bias(max_length, time_bias, position_bias),
            )
            for _ in range(blocks)
        ]
        super().__init__(
            num_items, attentions, max_length, width, dropout, block=block, expansion=expansion,
            temperature=temperature, tied=tied, uses_times=time_bias,
            features=features,
        )  # fmt: skip
        self.kernel_weight, self.heads, self.backend = kernel_weight, heads, backend
        self.users = nn.Embedding(num_users + 1, width, padding_idx=0)
        self.initialise_table(self.users.weight)
        nn.init.zeros_(self.users.weight[0].data)
        self.kernels = RelationKernels(width, user_dim=width)
        names = parse_kernels(kernels)
        used = torch.tensor([float(name in names) for name in KERNELS])
        self.register_buffer("used", used, persistent=False)

    @property
    def uses_kernel_loss(self) -> bool:
        return self.kernel_weight > 0.0

    def check_device(self, device: torch.device) -> None:
        length, width = self.positions.weight.shape
        query = torch.zeros(1, self.heads, length, width // self.heads, device=device)
        arguments = Arguments(query, query, query)
        if self.uses_times:
            times = torch.zeros(1, length, dtype=torch.int64, device=device)
            table = torch.zeros(1, TIME_BUCKETS, device=device)
            arguments = arguments._replace(time_table=table, row_times=times, key_times=times)
        choose(self.backend, arguments)

    def attention_inputs(
        self, batch: Batch, groups: LengthGroups, items: Tensor
    ) -> list[dict[str, Any]]:
        users, known = self.users(batch.users + 1), batch.users >= 0

        def kernels(rows: Tensor, vectors: Tensor) -> Kernels:
            length = vectors.shape[1]
            counts = batch.cooccurrence[rows, -length:, -length:]
            found = self.kernels(vectors, users[rows], counts, known[rows])
            return found._replace(mixture=found.mixture * self.used)

        times = super().attention_inputs(batch, groups, items)
        parts = zip(groups.groups, groups.unpack(items), times, strict=True)
        return [{"kernels": kernels(group.rows, vectors), **more} for group, vectors, more in parts]

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        if not self.uses_kernel_loss:
            return {}
        assert batch.kernel_counts is not None  # as `uses_kernel_loss` asked for
        vectors = self.items(batch.kernel_items)
        loss = kernel_loss(vectors, batch.kernel_counts, self.kernels.concentration[0])
        return {"kernel": self.kernel_weight * loss}
