"""`swap_attention`: KernelizedAttention in place of every nn.MultiheadAttention of a model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rka_fast.attention import KernelizedAttention
from rka_fast.errors import expect, hint
from rka_fast.kernels import initialised_by, zero_bias

STARTS = {
    "trained": {"activation": "identity", "initial_scale": 0.1},
    "rksa": {"activation": "leaky_relu", "initial_scale": 0.5},
}
"""Where the swapped attention starts, and the settings that go with it."""


def swap_attention(
    model: nn.Module,
    *,
    filter_fn: Callable[[str, nn.Module], bool] | None = None,
    start: str = "trained",
    activation: str | None = None,
    initial_scale: float | None = None,
    user_dim: int | None = None,
    backend: str = "auto",
) -> list[str]:
    """Replaces, in place, every `nn.MultiheadAttention` in `model`, and timm's `Attention`.

    The trained parameters move over as they are (the same objects: an optimiser that has them keeps
    them; add the new ones to it). What has been replaced stays as it is when called again.

    Args:
        model: any module with attentions in it.
        filter_fn: called with the name and the module of each attention; False leaves it as it is.
        start: "trained" keeps the trained function: the skewness starts at zero and f is the
            identity, so that the mean of the logits (evaluation) is what they were, while training
            draws around it with standard deviation `initial_scale`. "rksa" starts as the
            constructor does, for training from scratch.
        activation, initial_scale: in place of the start's own.
        user_dim, backend: as in `KernelizedAttention`.

    Returns:
        The names of the replaced modules, in the order of `named_modules`; empty if there are none
        left.

    Raises:
        ValueError, TypeError: where an attention cannot be replaced (`add_bias_kv`,
            `add_zero_attn`, timm's normalised or gated kinds, hooks and prunings) or an argument is
            wrong; the message names it, and nothing has been changed.
    """
    expect("model", model, nn.Module, "a torch.nn.Module")
    if filter_fn is not None:
        expect("filter_fn", filter_fn, Callable, "a function of name and module, or None")
    if _converter(model) is not None:
        raise ValueError(
            f"model: expected a module with attentions in it, got {type(model).__name__} itself, "
            "which cannot be replaced in place: give the module around it, or "
            "torch.nn.ModuleList([model]), whose first element is then its replacement"
        )
    options = {**start_options(start, activation, initial_scale), "backend": backend}
    options["user_dim"] = user_dim
    replacements: dict[int, KernelizedAttention] = {}
    names: dict[str, KernelizedAttention] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        convert = _converter(module)
        if convert is None or (filter_fn is not None and not filter_fn(name, module)):
            continue
        if name.rpartition(".")[2] == "_orig_mod":
            raise ValueError(
                f"{name}: expected an attention that is not compiled: swap, then compile"
            )
        if id(module) not in replacements:  # one that is used twice stays one
            try:
                _refuse_additions(module)
                replacements[id(module)] = convert(module, options)
            except ValueError as error:
                raise ValueError(f"{name}: {error}; leave it out by filter_fn") from error
            if start == "trained":
                nn.init.zeros_(replacements[id(module)].spread_query.weight)
        names[name] = replacements[id(module)]
    for name, replacement in names.items():
        model.set_submodule(name, replacement)
    return list(names)


def start_options(start: str, activation: str | None, initial_scale: float | None) -> dict:
    """Activation and initial scale of a start, or those given in their place."""
    if start not in STARTS:
        raise ValueError(
            f"start: expected one of {', '.join(STARTS)}, got {start!r}; {hint(start, STARTS)}"
        )
    given = {"activation": activation, "initial_scale": initial_scale}
    return STARTS[start] | {name: x for name, x in given.items() if x is not None}


class TimmAttention(KernelizedAttention):
    """KernelizedAttention with the interface of `timm.layers.Attention`."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """x (B, n, dim). A boolean mask is True where a query may see a key, as in timm."""
        if attn_mask is not None:
            length = x.shape[1]
            attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
            attn_mask = attn_mask.expand(len(x), self.num_heads, length, length).flatten(0, 1)
        output, _ = super().forward(
            x, x, x, attn_mask=attn_mask, is_causal=is_causal, need_weights=False
        )
        return self.get_submodule("proj_drop")(output)


def _converter(module: nn.Module) -> Callable[[Any, dict], KernelizedAttention] | None:
    """What makes ours of the module, or None where it is no attention that we know."""
    if isinstance(module, nn.MultiheadAttention):
        # A subclass with a forward of its own does something else (as ours does).
        return _from_torch if type(module).forward is nn.MultiheadAttention.forward else None
    origin = type(module).__module__
    is_timm = type(module).__name__ == "Attention" and hasattr(module, "qkv")
    known = origin in ("timm.layers.attention", "timm.models.vision_transformer")
    return _from_timm if known and is_timm else None


def _has_additions(module: nn.Module) -> bool:
    """Whether calls of the module run more than its class says: hooks (prunings), a new forward."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks) or "forward" in vars(module)


def _refuse_additions(theirs: nn.Module) -> None:
    """Raise ValueError where the replacement would not have what was put on the attention."""
    dissolved = [theirs, theirs.qkv] if hasattr(theirs, "qkv") else [theirs]
    if any(_has_additions(x) or is_parametrized(x) for x in dissolved):
        raise ValueError(
            "expected an attention without hooks, prunings and parametrisations, which its "
            "replacement would not have: remove them or make them permanent, and put hooks on the "
            "replacement"
        )


def _from_torch(theirs: nn.MultiheadAttention, options: dict) -> KernelizedAttention:
    weight = theirs.out_proj.weight
    ours = KernelizedAttention(
        theirs.embed_dim, theirs.num_heads, theirs.dropout, theirs.in_proj_bias is not None,
        theirs.bias_k is not None, theirs.add_zero_attn, theirs.kdim, theirs.vdim,
        theirs.batch_first, weight.device, weight.dtype, **options,
    )  # fmt: skip
    for name, parameter in theirs.named_parameters(recurse=False):
        ours.register_parameter(name, parameter)
    _take_output(ours, theirs.out_proj)
    return ours.train(theirs.training)


def _from_timm(theirs: Any, options: dict) -> TimmAttention:
    width = theirs.qkv.in_features
    plain = all(isinstance(x, nn.Identity) for x in (theirs.q_norm, theirs.k_norm, theirs.norm))
    square = theirs.num_heads * theirs.head_dim == width == theirs.proj.out_features
    if not plain or not square or getattr(theirs, "gate", None) is not None:
        raise ValueError(
            "expected an attention without qk_norm, scale_norm and gate whose heads fill its width"
        )
    kind = type(theirs.qkv)
    if kind is not nn.Linear:
        raise ValueError(f"expected qkv to be an nn.Linear, got {kind.__module__}.{kind.__name__}")
    weight = theirs.qkv.weight
    ours = TimmAttention(
        width, theirs.num_heads, theirs.attn_drop.p, batch_first=True, device=weight.device,
        dtype=weight.dtype, **options,
    )  # fmt: skip
    ours.register_parameter("in_proj_weight", weight)
    ours.register_parameter("in_proj_bias", theirs.qkv.bias)
    _take_output(ours, theirs.proj)
    ours.proj_drop = theirs.proj_drop
    return ours.train(theirs.training)


def _take_output(ours: KernelizedAttention, projection: Any) -> None:
    ours.out_proj = projection
    initialised_by(projection, zero_bias)
