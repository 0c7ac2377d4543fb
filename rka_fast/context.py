"""What a model's attentions are told from outside it: relations, and the mode of evaluation.

An attention deep in a model is called by code that knows nothing of co-occurrence or draws. The
blocks below reach it there. What they set holds for the thread (or asyncio task) that set it and
for the modules of one model, and a compiled model sees it too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor, nn

from rka_fast.errors import expect, hint
from rka_fast.ops import check
from rka_fast.ops.arguments import MODES


class Told(NamedTuple):
    """What one attention is told; None leaves the call's own."""

    cooccurrence: Tensor | None = None
    user: Tensor | None = None
    mode: str | None = None
    aligned: bool = False

    def counts(self, self_attention: bool) -> Tensor | None:
        """The counts, for a call whose queries are its keys or were said to be aligned."""
        if self_attention or self.aligned:
            return self.cooccurrence
        raise ValueError(
            "use_relations(cooccurrence=...): expected self-attention (query and key the same "
            "tensor), got different queries and keys. Name the part of the model whose attentions "
            "the counts belong to, use_relations(model.encoder, ...), or, where the queries are "
            "the keys under another normalisation, pass aligned=True"
        )


NOTHING = Told()
_told: ContextVar[dict[int, Told] | None] = ContextVar("rka_fast_told", default=None)


def told(module: nn.Module) -> Told:
    """What the blocks around this call say to `module`."""
    everything = _told.get()
    return NOTHING if everything is None else everything.get(id(module), NOTHING)


@contextmanager
def use_relations(
    model: nn.Module,
    *,
    cooccurrence: Tensor | None = None,
    user: Tensor | None = None,
    aligned: bool = False,
) -> Iterator[None]:
    """Calls of `model` in this block see these relations in every `KernelizedAttention` in it.

    Args:
        model: the attention, or any module around it.
        cooccurrence: (B, m, m) counts of the keys, as in `KernelizedAttention.forward`.
        user: (B, user_dim); the attentions must have been built with `user_dim`.
        aligned: position t of the queries is position t of the keys, though they are different
            tensors: blocks that normalise the queries alone. Otherwise only self-attention takes
            counts, and cross-attention in `model` is an error: name its self-attentions instead,
            `use_relations(model.encoder, ...)`.

    What a call is given directly comes first; inner blocks come before outer ones.

    Raises:
        ValueError, TypeError: where `model` has no such attention, or one without the user's
            kernel, and where counts or users are no tensors.
    """
    for name, x in (("cooccurrence", cooccurrence), ("user", user)):
        if x is not None:
            expect(name, x, Tensor, "a tensor or None")
    check.flags(aligned=aligned)
    for module in _some_attentions(model):
        if user is not None and (module.kernels is None or module.kernels.user_dim is None):
            raise ValueError(
                "user: expected attentions built with user_dim, got one without: build it with "
                f"user_dim={user.shape[-1]}, or name a part of the model, use_relations(part, ...)"
            )
    with _telling(model, {"cooccurrence": cooccurrence, "user": user, "aligned": aligned}):
        yield


@contextmanager
def use_draws(model: nn.Module, mode: str = "sample") -> Iterator[None]:
    """Calls of `model` in this block take `mode` in every `KernelizedAttention` in it.

    "sample" lets a model in `.eval()` draw its attention logits, a new draw for each call from
    PyTorch's generator; "mean" keeps one in `.train()` from drawing; "location" leaves the spread
    out.

    Raises:
        ValueError: for another mode, and where `model` has no such attention.
    """
    if mode not in MODES:
        raise ValueError(
            f"mode: expected one of {', '.join(MODES)}, got {mode!r}; {hint(mode, MODES)}"
        )
    with _telling(model, {"mode": mode}):
        yield


@contextmanager
def _telling(model: nn.Module, values: dict) -> Iterator[None]:
    given = {name: x for name, x in values.items() if x is not None}
    everything = dict(_told.get() or {})
    for module in _some_attentions(model):
        everything[id(module)] = everything.get(id(module), NOTHING)._replace(**given)
    token = _told.set(everything)
    try:
        yield
    finally:
        _told.reset(token)


def attentions(model: nn.Module) -> list[Any]:
    """What the blocks above reach in `model`: `KernelizedAttention`, and those of integrations."""
    return [module for module in model.modules() if getattr(module, "takes_relations", False)]


def _some_attentions(model: nn.Module) -> list[Any]:
    """The attentions in `model`. Raises ValueError where there are none."""
    expect("model", model, nn.Module, "a torch.nn.Module")
    found = attentions(model)
    if not found:
        raise ValueError(
            f"model: expected a module with KernelizedAttention in it, got {type(model).__name__} "
            "without; rka_fast.swap_attention(model) puts it in place of MultiheadAttention"
        )
    return found
