"""How much of a score each item of the history brings: an exact decomposition.

Where attention weights, the lengths by which normalisations divide and the gates (of ReLU, or of
LiGR's blocks) are those of this history, the network is affine in the vectors of its positions,
however many blocks it has. Of an affine function the gradient times the input, over all inputs and
all added constants, sums to its value (Euler): every position then has a share of the score, and
shares and constants add up to the score. For attention weights alone that is the usual reading of
one block; gradient times input is Shrikumar et al. (arXiv 1605.01713), and holding normalisations
and weights is what layer-wise relevance propagation does in Transformers (Ali et al., ICML 2022).

What a history without the item would have been answered is another question, since the weights
would then be others: see `rka_fast.explaining.asking.History.without`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rka_fast.context import use_draws
from rka_fast.data.batches import Batch
from rka_fast.explaining.attending import draws_logits, value_path, watched
from rka_fast.models.rksa import RKSA
from rka_fast.models.transformer import SwiGLU, TransformerRecommender


class Shares(NamedTuple):
    """Of the scores of k items after one history of n events, float64.

    items (k, n): what the item vector of each event brings. places (k, n): what the vector of its
    position brings. constants (k,): what the biases of the network bring, whatever the history.
    scores (k,) = items.sum(1) + places.sum(1) + constants, computed by themselves.
    """

    items: Tensor
    places: Tensor
    constants: Tensor
    scores: Tensor


def shares(
    model: TransformerRecommender, batch: Batch, wanted: Tensor, mode: str = "mean"
) -> Shares:
    """The shares in the scores of the items `wanted` (k,).

    batch: of one history. mode: of RKSA's attention, "mean" or "location". They are computed in
    float64 on a copy of the blocks and of the vectors that are needed.
    """
    small, batch, wanted = _small_copy(model, batch, wanted)
    leaves: dict[str, Tensor] = {}

    def leaf(name: str) -> Callable[..., Tensor]:
        def replace(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            leaves[name] = output.detach().requires_grad_()
            return leaves[name]

        return replace

    states: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        states.append(output)

    with ExitStack() as hooks, torch.enable_grad():
        for name in ("items", "positions"):
            hooks.enter_context(getattr(small, name).register_forward_hook(leaf(name)))
        for module in small.modules():
            if isinstance(module, nn.LayerNorm):
                hooks.enter_context(module.register_forward_hook(_by_held_length))
        for gate in _gates(small):
            hooks.enter_context(gate.register_forward_hook(_held))
        # After those of the normalisations, so that it sees what they make.
        hooks.enter_context(small.norm.register_forward_hook(keep))
        if draws_logits(small):
            hooks.enter_context(use_draws(small, mode))
        hooks.enter_context(watched(small, _by_held_weights))
        exact = small.encode(batch)[0, -1]
        state = states[0][-1]
        if small.temperature is not None:
            state = state / (state.norm() * small.temperature).detach()
        scores = small.item_vectors()[wanted].detach() @ state
        rows = [_row(score, leaves, small) for score in scores.unbind()]
    items, places, constants = (torch.stack(x) for x in zip(*rows, strict=True))
    with torch.no_grad():
        return Shares(items, places, constants, small.item_vectors()[wanted] @ exact)


def _row(score: Tensor, leaves: dict[str, Tensor], model: nn.Module) -> tuple[Tensor, ...]:
    """Shares of the items (n,), of the places (n,) and of the biases () in one score."""
    biases = [x for name, x in model.named_parameters() if name.endswith("bias")]
    vectors = [leaves["items"], leaves["positions"]]
    found = torch.autograd.grad(score, [*vectors, *biases], retain_graph=True, allow_unused=True)
    items, places = ((g * x).sum(-1).detach() for g, x in zip(found, vectors, strict=False))
    constants = [(g * x).sum() for g, x in zip(found[2:], biases, strict=True) if g is not None]
    return items, places, torch.stack(constants).sum().detach()


def _small_copy(
    model: TransformerRecommender, batch: Batch, wanted: Tensor
) -> tuple[TransformerRecommender, Batch, Tensor]:
    """The model on the CPU in float64, with only the vectors that the batch and `wanted` need.

    With the batch and the items by the numbers that they have there.
    """
    batch, wanted = batch.to("cpu"), wanted.cpu()
    rows = torch.cat((batch.items.flatten(), wanted, torch.zeros(1, dtype=torch.int64))).unique()
    tables = {model.items: rows}
    if model.output is not None:
        tables[model.output] = rows
    if isinstance(model, RKSA):
        tables[model.users] = torch.cat((torch.zeros(1, dtype=torch.int64), batch.users + 1))
    # What deepcopy is told that it has copied already.
    copied = {
        id(table.weight): nn.Parameter(table.weight.detach()[kept.to(table.weight.device)])
        for table, kept in tables.items()
    }
    small = copy.deepcopy(model, copied).double().cpu().eval()
    counts = batch.cooccurrence
    batch = batch._replace(
        items=torch.searchsorted(rows, batch.items),
        users=torch.where(batch.users >= 0, 0, -1),
        cooccurrence=None if counts is None else counts.double(),
    )
    return small, batch, torch.searchsorted(rows, wanted)


def _gates(model: TransformerRecommender) -> list[nn.Module]:
    """What the gated blocks multiply by: of the blocks' gates and of their networks'."""
    found = []
    for block in model.blocks:
        for name in ("attention_gate", "feed_forward_gate"):
            if hasattr(block, name):
                found.append(getattr(block, name))
        if isinstance(block.feed_forward, SwiGLU):
            found.append(block.feed_forward.gate)
    return found


def _held(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output.detach()


def _by_held_length(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    """The normalisation with the standard deviation as a constant."""
    assert isinstance(module, nn.LayerNorm)
    centred = args[0] - args[0].mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
    return centred / deviation * module.weight + module.bias


def _by_held_weights(module: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    return value_path(module, x, weights.detach())
