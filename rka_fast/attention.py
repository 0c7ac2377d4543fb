"""`KernelizedAttention`: the operator with its projections, in place of MultiheadAttention."""

import math
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast import nested
from rka_fast.context import told
from rka_fast.errors import expect
from rka_fast.kernels import RelationKernels, initialised_by, zero_bias
from rka_fast.ops import check
from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.arguments import ACTIVATIONS, MODES
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.groups import Covariance, Kernels, Location, RelationFactor, RelativeTimes, Shape


class KernelizedAttention(nn.MultiheadAttention):
    """Relation-aware kernelized attention with the interface of `torch.nn.MultiheadAttention`.

    The location projections are MultiheadAttention's parameters under their own names, so
    `load_state_dict(mha.state_dict(), strict=False)` carries trained weights over. With
    `mode="location"` and `activation="identity"` the module computes what MultiheadAttention does.

    Args:
        embed_dim, num_heads, dropout, bias, kdim, vdim, batch_first, device, dtype: as in
            MultiheadAttention. `add_bias_kv` and `add_zero_attn` add keys that have no features
            and are refused.
        user_dim: width of the user vectors; None leaves the user kernel out.
        activation: f of location and shape: identity, leaky_relu (default), relu, tanh.
        initial_scale: where the standard deviation of the logits starts.
        backend: "auto" or a name out of `rka_fast.available_backends()`.
        own_kernels: False when every call brings ready `kernels`; the module then has no kernel
            parameters of its own.
    """

    takes_relations = True  # context.py looks for it

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        user_dim: int | None = None,
        activation: str = "leaky_relu",
        initial_scale: float = 0.5,
        backend: str = "auto",
        own_kernels: bool = True,
    ) -> None:
        check.flags(
            bias=bias, add_bias_kv=add_bias_kv, add_zero_attn=add_zero_attn,
            batch_first=batch_first, own_kernels=own_kernels,
        )  # fmt: skip
        for name, given in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if given:
                raise ValueError(f"{name}: expected False, got True: its key has no features")
        _check_sizes(embed_dim, num_heads, kdim, vdim)
        check.dropout("dropout", expect("dropout", dropout, Real, "a number"))
        check_settings(activation, initial_scale, backend)
        super().__init__(
            embed_dim, num_heads, dropout, bias, kdim=kdim, vdim=vdim, batch_first=batch_first,
            device=device, dtype=dtype,
        )  # fmt: skip
        new = {"device": device, "dtype": dtype}
        self.activation, self.backend, self.initial_scale = activation, backend, initial_scale
        # W_omega and W_s side by side: scale first, shape second.
        self.spread_query = nn.Linear(embed_dim, 2 * embed_dim, bias=False, **new)
        self.spread_key = nn.Linear(self.kdim, 2 * embed_dim, bias=False, **new)
        self.scale_bias = nn.Parameter(torch.empty(num_heads, **new))
        self.kernels = RelationKernels(self.kdim, user_dim, **new) if own_kernels else None
        for projection in (self.spread_query, self.spread_key):
            initialised_by(projection, _xavier)
            _xavier(projection)
        initialised_by(self.out_proj, zero_bias)
        self._reset_scale()
        # PyTorch's encoder layers take a fused path past any module that has no hook.
        self.register_forward_pre_hook(_is_called)

    def reset_parameters(self) -> None:
        """Everything as the constructor starts it, after `to_empty` for example."""
        for child in self.children():
            child.reset_parameters()  # pyright: ignore[reportCallIssue]
        super()._reset_parameters()
        self._reset_scale()

    def _reset_parameters(self) -> None:
        """All but the weight of `out_proj`, like MultiheadAttention's method of this name."""
        super()._reset_parameters()
        if "scale_bias" not in self._parameters:
            return  # MultiheadAttention's constructor, before the rest is there
        for projection in (self.spread_query, self.spread_key):
            projection.reset_parameters()
        if self.kernels is not None:
            self.kernels.reset_parameters()
        self._reset_scale()

    def _reset_scale(self) -> None:
        nn.init.constant_(self.scale_bias, math.log(math.expm1(self.initial_scale)))

    def extra_repr(self) -> str:
        sizes = f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout}"
        if (self.kdim, self.vdim) != (self.embed_dim,) * 2:
            sizes += f", kdim={self.kdim}, vdim={self.vdim}"
        return (
            f"{sizes}, batch_first={self.batch_first}, activation={self.activation!r}, "
            f"initial_scale={self.initial_scale:g}, backend={self.backend!r}"
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cooccurrence: Tensor | None = None,
        user: Tensor | None = None,
        mode: str | None = None,
        kernels: Kernels | RelationFactor | None = None,
        seed: Tensor | int | None = None,
        times: RelativeTimes | None = None,
        row_offset: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, with the relations of the keys.

        Args:
            query, key, value: (B, n, embed_dim), (B, m, kdim), (B, m, vdim) when batch_first.
            key_padding_mask, attn_mask: as in MultiheadAttention, boolean (True = hidden) or
                additive. Keys that an additive one puts more than 5,000 below the row's largest
                (-1e4, -1e9, the lowest finite number) are hidden like those at -inf.
            is_causal: query t sees keys 0..t; needs no attn_mask, and adds to one that is given.
            cooccurrence: (B, m, m) counts for self-attention (`query is key`), checked as
                `rka_fast.check_counts` does it.
            user: (B, user_dim).
            mode: "sample" (default in training), "mean" (default in evaluation) or "location".
            kernels: ready relations in place of the module's own, features and all, or what
                `relation_factor` has made of them under the masks of this call. The caller
                vouches that position t of the queries is position t of the keys, and for the
                counts: `rka_fast.check_counts` checks them once, not every call.
            seed: of the noise; by default drawn from PyTorch's generator.
            times: of queries and keys, with the table of what they add to the location; not for
                nested tensors.
            row_offset: query t is key t + row_offset, as in `kernelized_attention`; not for nested
                tensors.

        Returns:
            The output and, with `need_weights`, the weights that were applied: (B, n, m), or
            (B, H, n, m) with `average_attn_weights=False`.
        """
        for name, x in (("query", query), ("key", key), ("value", value)):
            expect(name, x, Tensor, "a tensor")
        optional = (
            ("attn_mask", attn_mask),
            ("key_padding_mask", key_padding_mask),
            ("user", user),
        )
        for name, x in optional:
            if x is not None:
                expect(name, x, Tensor, "a tensor or None")
        check.flags(need_weights=need_weights, average_attn_weights=average_attn_weights)
        if query.is_nested or key.is_nested or value.is_nested:
            _refuse_with_nested(times, row_offset)
            return nested.attend(
                self, query, key, value, attn_mask, key_padding_mask,
                need_weights=need_weights, average_attn_weights=average_attn_weights,
                is_causal=is_causal, cooccurrence=cooccurrence, user=user, mode=mode,
                kernels=kernels, seed=seed,
            )  # fmt: skip
        outside = told(self)
        if mode is None:
            mode = outside.mode or ("sample" if self.training else "mean")
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        same = (query is key, key is value)
        if cooccurrence is not None:
            _refuse_counts(same[0], kernels)
        elif kernels is None and outside.cooccurrence is not None:
            cooccurrence = outside.counts(same[0])
        user = outside.user if user is None else user
        batched = query.dim() == 3
        query, key, value = self._batch_first(query, key, value)
        if not batched and key_padding_mask is not None and key_padding_mask.dim() == 1:
            key_padding_mask = key_padding_mask[None]
        mask, padding, bias = self._masks(attn_mask, key_padding_mask, query, key)
        q, k, v = self._project(query, key, value, same)
        covariance = shape = None
        if mode != "location":
            kernels = self._kernels(key, kernels, user, cooccurrence)
            covariance, shape = self._spread(query, key, kernels)
        width = v.shape[-1]
        if need_weights:  # softmax(Z) [V, I] holds the weights beside the output
            identity = torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
            v = torch.cat((v, identity.expand(*v.shape[:2], -1, -1)), dim=-1)
        output = kernelized_attention(
            Location(q, k, bias, times),
            v,
            covariance,
            shape,
            mask=mask,
            key_padding_mask=padding,
            is_causal=is_causal,
            mode=mode,
            activation=self.activation,
            dropout_p=self.dropout if self.training else 0.0,
            seed=seed,
            row_offset=row_offset,
            check_counts=cooccurrence is not None,
            backend=self.backend,
        )
        weights = None
        if need_weights:
            output, weights = output[..., :width], output[..., width:]
            weights = weights.mean(dim=1) if average_attn_weights else weights
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _batch_first(self, *tensors: Tensor) -> list[Tensor]:
        names = ("query", "key", "value")
        widths = (self.embed_dim, self.kdim, self.vdim)
        for name, x, width in zip(names, tensors, widths, strict=True):
            if x.dim() not in (2, 3) or x.dim() != tensors[0].dim() or x.shape[-1] != width:
                raise ValueError(
                    f"{name}: expected 3 (or for all three, unbatched, 2) dimensions with "
                    f"{width} channels last, got shape {tuple(x.shape)}"
                )
        if tensors[0].dim() == 2:
            return [x[None] for x in tensors]
        return list(tensors) if self.batch_first else [x.transpose(0, 1) for x in tensors]

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, same: tuple[bool, bool]
    ) -> tuple[Tensor, ...]:
        """Heads of query, key and value; `same` says if query is key, and key is value."""
        d, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if weight is None:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif all(same):  # one product for each input
            return self._heads(F.linear(query, weight, bias), 3)
        elif same[1]:
            q_bias, kv_bias = (None, None) if bias is None else (bias[:d], bias[d:])
            q = F.linear(query, weight[:d], q_bias)
            return *self._heads(q, 1), *self._heads(F.linear(key, weight[d:], kv_bias), 2)
        else:
            weights = weight.unflatten(0, (3, d)).unbind()
        offsets = (None, None, None) if bias is None else bias.unflatten(0, (3, d)).unbind()
        products = map(F.linear, (query, key, value), weights, offsets)
        return tuple(self._heads(x, 1)[0] for x in products)

    def _spread(
        self, query: Tensor, key: Tensor, kernels: Kernels | RelationFactor
    ) -> tuple[Covariance, Shape]:
        scale_query, shape_query = self._heads(self.spread_query(query), 2)
        scale_key, shape_key = self._heads(self.spread_key(key), 2)
        covariance = Covariance(scale_query, scale_key, kernels, self.scale_bias)
        return covariance, Shape(shape_query, shape_key)

    def _kernels(
        self,
        key: Tensor,
        kernels: Kernels | RelationFactor | None,
        user: Tensor | None,
        cooccurrence: Tensor | None,
    ) -> Kernels | RelationFactor:
        if kernels is not None:
            return kernels
        if self.kernels is None:
            raise ValueError(
                "kernels: expected ready kernels, got None: this module was built with "
                "own_kernels=False"
            )
        return self.kernels(key, user, cooccurrence)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, length, parts * embed_dim) -> `parts` of (B, H, length, embed_dim / H)."""
        x = x.unflatten(-1, (parts, self.num_heads, self.head_dim))
        return x.permute(2, 0, 3, 1, 4).unbind()

    def _masks(
        self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor, key: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """MultiheadAttention's masks as the operator's: mask, key padding, additive bias."""
        batch, rows, keys = query.shape[0], query.shape[1], key.shape[1]
        mask = bias = None
        if attn_mask is not None:
            shapes = ((rows, keys), (batch * self.num_heads, rows, keys))
            if tuple(attn_mask.shape) not in shapes:
                raise ValueError(
                    f"attn_mask: expected shape {shapes[0]} or {shapes[1]}, "
                    f"got {tuple(attn_mask.shape)}"
                )
            attn_mask = attn_mask.reshape(-1, self.num_heads, rows, keys) if (
                attn_mask.dim() == 3
            ) else attn_mask[None, None]  # fmt: skip
            bias = _as_bias("attn_mask", attn_mask)
            mask = ~attn_mask if bias is None else None
        if padding is not None:
            if tuple(padding.shape) != (batch, keys):
                raise ValueError(
                    f"key_padding_mask: expected shape {(batch, keys)}, got {tuple(padding.shape)}"
                )
            key_bias = _as_bias("key_padding_mask", padding)
            if key_bias is not None:
                padding, key_bias = None, key_bias[:, None, None, :]
                bias = key_bias if bias is None else bias + key_bias
        return mask, padding, bias


def _check_sizes(embed_dim: int, num_heads: int, kdim: int | None, vdim: int | None) -> None:
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
    for name, size in sizes.items():
        if size is None and name in ("kdim", "vdim"):
            continue
        if expect(name, size, Integral, "an int") < 1:
            raise ValueError(f"{name}: expected 1 or more, got {size}")
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim: expected a multiple of num_heads, got {embed_dim} for {num_heads} heads"
        )


def check_settings(activation: str, initial_scale: float, backend: str) -> None:
    """Refuse settings of an attention that no call could serve."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    expect("initial_scale", initial_scale, Real, "a positive number")
    if not 0.0 < initial_scale < math.inf:
        raise ValueError(f"initial_scale: expected a positive number, got {initial_scale}")
    if backend not in ("auto", *BACKENDS):
        names = ", ".join(("auto", *BACKENDS))
        raise ValueError(f"backend: expected one of {names}, got {backend!r}")


def _refuse_counts(same: bool, kernels: Kernels | RelationFactor | None) -> None:
    """Raise ValueError where counts have no meaning: they are of the keys, beside no kernels."""
    if kernels is not None:
        raise ValueError(
            "cooccurrence: expected None beside kernels, which hold the counts, got a tensor; pass "
            "kernels=module.kernels(key, user, cooccurrence) with batch-first key"
        )
    if not same:
        raise ValueError(
            "cooccurrence: expected self-attention (query and key the same tensor), got "
            "different queries and keys. Leave it out for cross-attention; where the "
            "queries are the keys under another normalisation, pass "
            "kernels=module.kernels(key, user, cooccurrence) with batch-first key"
        )


def _refuse_with_nested(times: RelativeTimes | None, row_offset: int) -> None:
    if times is not None:
        raise ValueError("times: expected None with nested tensors, got RelativeTimes")
    if row_offset:
        raise ValueError(f"row_offset: expected 0 with nested tensors, got {row_offset}")


def _as_bias(name: str, mask: Tensor) -> Tensor | None:
    """The mask where it is additive, None where it is boolean."""
    if mask.dtype == torch.bool:
        return None
    if not mask.is_floating_point():
        raise TypeError(f"{name}: expected a boolean or float mask, got {mask.dtype}")
    return mask


def _is_called(module: nn.Module, inputs: tuple) -> None:
    """A hook that does nothing but be there."""


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
