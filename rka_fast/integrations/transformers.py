"""Hugging Face Transformers: our attention under the name "rka_fast".

    model = add_attention(AutoModelForCausalLM.from_pretrained(...))
    model.save_pretrained(folder)
    model = from_pretrained(AutoModelForCausalLM, folder)

Every attention of the model, cross-attention too, gets a `HeadSpread`: what scale, shape and
covariance need, made of the heads of queries and keys that the model computes itself (rotated,
cached and shared as it likes).
Importing this module registers the name; transformers is imported with it.
"""

from __future__ import annotations

import inspect
import math
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
from transformers.masking_utils import sdpa_mask

from rka_fast.attention import check_settings
from rka_fast.context import told
from rka_fast.errors import expect
from rka_fast.kernels import RelationKernels, initialised_by
from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.groups import Covariance, Location, Shape
from rka_fast.swap import start_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "rka_fast"
_UNSUPPORTED = ("softcap", "s_aux", "head_mask")
_CROSS = ("cross", "encoder_attn", "encdec")  # in the names of attentions to another sequence


class HeadSpread(nn.Module):
    """Scale, shape and kernels of one attention, from its heads (ours; shared by the heads).

    With q and k of a head: scale and shape scores are products of W q and W k, and a key's features
    are its heads side by side.
    """

    takes_relations = True
    cross = False  # whether its keys are another sequence's

    def __init__(
        self, heads: int, key_heads: int, width: int, *, start: str, activation: str,
        initial_scale: float, user_dim: int | None, backend: str, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_settings(activation, initial_scale, backend)
        new = {"device": device, "dtype": dtype}
        self.activation, self.backend = activation, backend
        self.query = nn.Linear(width, 2 * width, bias=False, **new)
        self.key = nn.Linear(width, 2 * width, bias=False, **new)
        self.scale_bias = nn.Parameter(
            torch.full((heads,), initial_scale, **new).expm1().log().detach()
        )
        self.kernels = RelationKernels(key_heads * width, user_dim, **new)
        for projection, initialise in (
            (self.query, _zeros if start == "trained" else _xavier), (self.key, _xavier),
        ):  # fmt: skip
            initialised_by(projection, initialise)
            initialise(projection)

    def forward(
        self, query: Tensor, key: Tensor, cooccurrence: Tensor | None, user: Tensor | None
    ) -> tuple[Covariance, Shape]:
        """From query (B, H, n, width) and key (B, H_kv, m, width)."""
        features = key.transpose(1, 2).flatten(2)
        kernels = self.kernels(features, user, cooccurrence)
        (scale_query, shape_query), (scale_key, shape_key) = (
            projection(x).chunk(2, dim=-1)
            for projection, x in ((self.query, query), (self.key, key))
        )
        return Covariance(scale_query, scale_key, kernels, self.scale_bias), Shape(
            shape_query, shape_key
        )


def add_attention(
    model: PreTrainedModel,
    *,
    start: str = "trained",
    activation: str | None = None,
    initial_scale: float | None = None,
    user_dim: int | None = None,
    backend: str = "auto",
) -> PreTrainedModel:
    """Gives every attention of `model` what ours needs, in place, and selects it by name.

    Args as in `rka_fast.swap_attention`: by default the trained function is kept in evaluation.
    The settings go into `model.config.rka_fast` and with it into `save_pretrained`. What has been
    given stays as it is when called again.

    Returns:
        The model.

    Raises:
        ValueError: where no attention is found that Transformers dispatches by name, or one whose
            heads are of a size that it does not tell.
    """
    expect("model", model, nn.Module, "a model of Transformers")
    if not hasattr(model, "set_attn_implementation"):
        raise TypeError(
            f"model: expected a model of Transformers, got {type(model).__name__}; "
            "rka_fast.swap_attention replaces nn.MultiheadAttention in any model"
        )
    options = {**start_options(start, activation, initial_scale), "start": start}
    options |= {"user_dim": user_dim, "backend": backend}
    found = {name: module for name, module in model.named_modules() if _takes_a_name(module)}
    if not found:
        raise ValueError(
            f"model: {type(model).__name__} has no attention that Transformers dispatches by name; "
            "rka_fast.swap_attention replaces nn.MultiheadAttention"
        )
    without = {name: module for name, module in found.items() if not hasattr(module, NAME)}
    sizes = {name: _sizes(name, module) for name, module in without.items()}
    for name, module in without.items():
        parameter = next(module.parameters())
        new = {"device": parameter.device, "dtype": parameter.dtype}
        spread = HeadSpread(*sizes[name], **options, **new).train(module.training)
        spread.cross = _is_cross(name)
        module.add_module(NAME, spread)
    if without:
        model.config.rka_fast = options
    model.set_attn_implementation(NAME)
    return model


def from_pretrained(auto_class: Any, path: str, **options: Any) -> PreTrainedModel:
    """What `save_pretrained` wrote of a model with our attention, parameters and settings.

    Args:
        auto_class: an Auto class of Transformers or a model's class.
        path, options: as in its `from_pretrained`.

    Raises:
        ValueError, TypeError: where the folder's config does not tell of our attention.
    """
    expect("path", path, str | os.PathLike, "a folder's name or path")
    expect("auto_class", auto_class, type, "a class of Transformers")
    config = options.pop("config", None) or AutoConfig.from_pretrained(path)
    settings = getattr(config, "rka_fast", None)
    if settings is None:
        raise ValueError(
            f"{path}: expected a model saved with rka_fast's attention, got one without; load it "
            "by its own from_pretrained and call add_attention(model)"
        )
    mapping = getattr(auto_class, "_model_mapping", None)
    base = auto_class if mapping is None else mapping[type(config)]

    def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        add_attention(self, **settings)

    # Transformers makes the parameters that it loads, so they must be there from the start.
    kind = type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})
    model = kind.from_pretrained(path, config=config, **options)
    model.__class__ = base
    return model


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The function that Transformers calls: heads in, (B, n, H, width) out, no weights."""
    spread = getattr(module, NAME, None)
    if spread is None:
        raise ValueError(
            f"{type(module).__name__}: attn_implementation={NAME!r} needs parameters of its own: "
            "rka_fast.integrations.transformers.add_attention(model) adds them, from_pretrained "
            "loads them"
        )
    if given := [name for name in _UNSUPPORTED if more.get(name) is not None]:
        raise ValueError(
            f"{type(module).__name__}: {', '.join(given)} is not supported by "
            f"attn_implementation={NAME!r}; use 'eager' for this model"
        )
    if query.shape[-1] != spread.query.in_features:
        raise ValueError(
            f"{type(module).__name__}: expected heads of width {spread.query.in_features}, which "
            f"it tells, got {query.shape[-1]}; use 'eager' for this model"
        )
    outside = told(spread)
    counts = None if outside.cooccurrence is None else outside.counts(not spread.cross)
    mode = outside.mode or ("sample" if module.training else "mean")
    mask, bias = None, position_bias
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            mask = attention_mask
        else:
            bias = attention_mask if bias is None else bias + attention_mask
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    rows, keys = query.shape[2], key.shape[2]
    covariance = shape = None
    if mode != "location":
        covariance, shape = spread(query, key, counts, outside.user)
    if scaling is not None and math.isclose(scaling, query.shape[-1] ** -0.5):
        scaling = None  # the default, which every backend has
    output = kernelized_attention(
        Location(query, key, bias),
        value,
        covariance,
        shape,
        mask=mask,
        is_causal=is_causal and attention_mask is None and rows > 1,
        mode=mode,
        activation=spread.activation,
        dropout_p=dropout,
        scale=scaling,
        # With a cache the queries are the last keys; counts must know which.
        row_offset=0 if counts is None else keys - rows,
        enable_gqa=key.shape[1] != query.shape[1],
        backend=spread.backend,
    )
    return output.transpose(1, 2).contiguous(), None


def attention_mask(*args: Any, **options: Any) -> Tensor | None:
    """As for "sdpa", boolean, and written out where it is causal: rows may lie in a cache."""
    return sdpa_mask(*args, **{**options, "allow_is_causal_skip": False})


def _takes_a_name(module: nn.Module) -> bool:
    """Whether its forward looks up the function of its attention by the model's setting."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _is_cross(name: str) -> bool:
    """Whether an attention of this name, "layer.0.crossattention.self", is to another sequence."""
    own = ".".join(name.lower().split(".")[-2:])
    return any(part in own for part in _CROSS)


def _sizes(name: str, module: Any) -> tuple[int, int, int]:
    """Heads of queries, heads of keys, and their width."""

    def told_as(*names: str) -> int:
        for place in (module, getattr(module, "config", None)):
            for attribute in names:
                if (size := getattr(place, attribute, None)) is not None:
                    return size
        raise ValueError(f"model: {name} ({type(module).__name__}) has none of {', '.join(names)}")

    width = told_as("head_dim", "attention_head_size", "head_size")
    heads = told_as("num_heads", "num_attention_heads")
    return heads, heads // getattr(module, "num_key_value_groups", 1), width


def _zeros(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, attention_mask)
