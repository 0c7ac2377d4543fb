"""Decoding: a causal call a few positions at a time, without factoring K anew for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rka_fast.attention import KernelizedAttention
from rka_fast.errors import expect
from rka_fast.ops import check, shapes
from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.groups import Covariance, Location, Shape
from rka_fast.ops.library import over_draws
from rka_fast.ops.reference import covariance as kernels
from rka_fast.ops.reference.attention import attention, correlation_of, prepare


class Decoder:
    """`kernelized_attention(..., is_causal=True)`, the next positions at each call.

    Call it with the queries of the new positions and with the keys, values, features and counts of
    all so far, which the caller keeps (the keys of attention as everywhere). Row t equals that of
    the call with all positions and the same seed, to rounding. The factor of K is kept and grows
    by a row a position: O(t^2), where the whole call is O(n^3). Plain PyTorch, without gradients.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self.length = 0

    @torch.no_grad()
    def __call__(
        self,
        location: Location,
        value: Tensor,
        covariance: Covariance | None = None,
        shape: Shape | None = None,
        *,
        seed: Tensor | int,
        **options: Any,
    ) -> Tensor:
        """(B, H, new, dv) for location.query (B, H, new, dh) and location.key (B, H, m, dh).

        options: those of `kernelized_attention` but is_causal, row_offset, backend and check_counts
        (a check of the counts would be cubic: `rka_fast.check_counts` does it once); keys that
        masks hide must stay hidden. Raises ValueError where m is not the length so far and the new.
        """
        own = {"is_causal", "row_offset", "backend", "check_counts"}
        if given := sorted(own & options.keys()):
            raise TypeError(f"options: expected none that decoding sets itself, got {given}")
        if seed is None:  # each call would draw its own
            raise TypeError("seed: expected an int or a tensor of one int64, got None")
        check.groups(location, covariance, shape)
        shapes.ranks(location.query, location.key)
        rows, keys = location.query.shape[2], location.key.shape[2]
        if keys != self.length + rows:
            raise ValueError(
                f"location.key: expected the {self.length} positions so far and the {rows} of "
                f"location.query, got {keys}"
            )
        output = kernelized_attention(
            location, value, covariance, shape, seed=seed, is_causal=True, row_offset=self.length,
            check_counts=False, backend=self._attend, **options,
        )  # fmt: skip
        self.length = keys
        return output

    def _attend(self, a: Arguments) -> Tensor:
        """By the reference's formulas, with the factor so far grown by the new rows."""
        if a.mode == "sample":
            self.factor = kernels.grown(self.factor, correlation_of(prepare(a)), a.jitter)
            a = a._replace(factor=self.factor)
        return over_draws(attention, a)


class ModuleDecoder:
    """Causal self-attention by a `KernelizedAttention`, the next positions at each call.

    Args:
        module: batch-first or not; dropout is that of its mode.
        seed: of the noise, as in the call with all positions.
        mode: "sample" or "mean" (default: the module's own, by training or evaluation).
        user: (B, user_dim), as in the module.
    """

    def __init__(
        self,
        module: KernelizedAttention,
        seed: Tensor | int,
        mode: str | None = None,
        user: Tensor | None = None,
    ) -> None:
        expect("module", module, KernelizedAttention, "a KernelizedAttention")
        if module.kernels is None:
            raise ValueError(
                "module: expected one with kernels of its own, got one built with "
                "own_kernels=False: decode with `Decoder` and the kernels that its calls bring"
            )
        self.module, self.seed, self.user = module, seed, user
        self.mode = ("sample" if module.training else "mean") if mode is None else mode
        self.decoder = Decoder()
        self.cache: list[Tensor] | None = None  # key, value, scale key, shape key, features

    @torch.no_grad()
    def __call__(self, x: Tensor, cooccurrence: Tensor | None = None) -> Tensor:
        """Outputs of the new positions x (B, new, d), batch-first or not as the module is.

        cooccurrence: (B, m, m), the counts of all positions so far, which are not checked.
        """
        m, x = self.module, expect("x", x, Tensor, "a tensor")
        batch = 0 if m.batch_first else 1
        known = None if self.cache is None else self.cache[0].shape[0]
        if x.dim() != 3 or x.shape[-1] != m.embed_dim or known not in (None, x.shape[batch]):
            raise ValueError(
                f"x: expected new positions ({'B, new' if m.batch_first else 'new, B'}, "
                f"{m.embed_dim}){'' if known is None else f' of the same {known} sequences'}, got "
                f"shape {tuple(x.shape)}"
            )
        x = x if m.batch_first else x.transpose(0, 1)
        query, key, value = m._project(x, x, x, (True, True))
        scale_query, shape_query = m._heads(m.spread_query(x), 2)
        new = [key, value, *m._heads(m.spread_key(x), 2), x]
        if self.cache is not None:
            new = [torch.cat(pair, -2) for pair in zip(self.cache, new, strict=True)]
        self.cache = new
        key, value, scale_key, shape_key, features = new
        assert m.kernels is not None
        kernels = m.kernels(features, self.user, cooccurrence)
        output = self.decoder(
            Location(query, key),
            value,
            Covariance(scale_query, scale_key, kernels, m.scale_bias),
            Shape(shape_query, shape_key),
            seed=self.seed,
            mode=self.mode,
            activation=m.activation,
            dropout_p=m.dropout if m.training else 0.0,
        )
        output = m.out_proj(output.transpose(1, 2).flatten(2))
        return output if m.batch_first else output.transpose(0, 1)
