"""`predict`: what a model answers over several draws of its attention logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from rka_fast.context import use_draws, use_operator
from rka_fast.errors import expect
from rka_fast.ops.api import as_seed, kernelized_attention


class Prediction(NamedTuple):
    """Mean and spread over draws, and on request the draws (draws, *output)."""

    mean: Tensor
    std: Tensor
    draws: Tensor | None = None


@torch.no_grad()
def predict(
    model: nn.Module,
    *inputs: Any,
    draws: int = 16,
    generator: torch.Generator | None = None,
    output: Callable[..., Tensor] | None = None,
    return_draws: bool = False,
    **keywords: Any,
) -> Prediction:
    """The model's output over `draws` draws of the logits of every `KernelizedAttention` in it.

    The model is called as often. An attention whose inputs are the same in every pass, the first of
    a model or a lone one, makes its draws in one call of the operator, which shares what they have
    in common; their outputs are kept until the end. Compiled models share nothing.

    Args:
        model: in evaluation, so that nothing but the attention is random.
        inputs, keywords: the model's own.
        draws: at least 2.
        generator: the draws come from it, and PyTorch's own generators stay as they are. By
            default they come from PyTorch's generator: `torch.manual_seed` repeats them.
        output: makes the tensor to average of what the model returns, such as
            `lambda logits: logits.softmax(-1)` (probabilities, not logits, are what to average for
            classes) or `lambda o: o.logits`.
        return_draws: keep each draw's output.

    Returns:
        Mean and standard deviation (with draws - 1), in the output's shape and at least float32.

    Raises:
        ValueError, TypeError: for a model that is training or has no such attention, fewer than two
            draws, and outputs that are no tensor of real numbers or differ in shape.
    """
    expect("model", model, nn.Module, "a torch.nn.Module")
    expect("draws", draws, Integral, "an int")
    if generator is not None:
        expect("generator", generator, torch.Generator, "a torch.Generator or None")
    if output is not None:
        expect("output", output, Callable, "a function of the model's output, or None")
    if draws < 2:
        raise ValueError(f"draws: expected at least 2, for a spread, got {draws}")
    if model.training:
        raise ValueError("model: expected one in evaluation, got one in training: model.eval()")
    kept, mean, squares = [], torch.empty(0), torch.empty(0)
    passes = _Passes(int(draws))
    with (
        use_draws(model),
        use_operator(model, passes.attend),
        _drawing_from(generator, model) as reseed,
    ):
        for i in range(draws):
            reseed()
            passes.begin(i)
            x = model(*inputs, **keywords)
            x = x if output is None else output(x)
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"output: expected a function that makes a tensor of the model's output, as "
                    f"it is no tensor but {type(x).__name__}; pass output=lambda o: o.logits or "
                    "the like"
                )
            if x.is_complex() or (i > 0 and x.shape != mean.shape):
                wanted = "real numbers" if i == 0 else f"the first draw's shape {tuple(mean.shape)}"
                raise ValueError(f"output: expected {wanted}, got {x.dtype} {tuple(x.shape)}")
            if return_draws:
                kept.append(x)
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if i == 0:
                mean, squares = x, torch.zeros_like(x)
                continue
            step = x - mean  # Welford: one pass, no cancellation
            mean = mean + step / (i + 1)
            squares = squares + step * (x - mean)
    std = (squares / (draws - 1)).sqrt()
    assert mean is not None  # there were draws
    return Prediction(mean, std, torch.stack(kept) if return_draws else None)


@contextmanager
def _drawing_from(
    generator: torch.Generator | None, model: nn.Module
) -> Iterator[Callable[[], None]]:
    """A function that seeds the next draw from the generator, if there is one."""
    devices = {x.device for x in model.parameters() if x.device.type == "cuda"}
    with nullcontext() if generator is None else torch.random.fork_rng(devices):

        def reseed() -> None:
            if generator is not None:
                seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
                torch.manual_seed(seed.item())

        yield reseed


class _Passes:
    """The operator's calls, known by their order in a pass of the model."""

    def __init__(self, draws: int) -> None:
        self.draws, self.draw, self.at = draws, 0, 0
        self.calls: list[_Call] = []

    def begin(self, draw: int) -> None:
        self.draw, self.at = draw, 0

    def attend(self, *groups: Any, seed: Tensor | int | None = None, **options: Any) -> Tensor:
        """`kernelized_attention` in the pass that has begun."""
        if seed is not None or options["mode"] != "sample":
            return kernelized_attention(*groups, seed=seed, **options)
        if self.at == len(self.calls):
            self.calls.append(_Call(self.draws, groups, options))
        call = self.calls[self.at]
        self.at += 1
        return call.output(self.draw, groups, options)


class _Call:
    """One of them, from pass to pass. Draw s has the seed of `draws=` in the operator."""

    def __init__(self, draws: int, groups: tuple, options: dict) -> None:
        device = groups[0].query.device
        self.seeds = as_seed(as_seed(None, device), device, draws)
        leaves = tree_flatten((groups, options))[0]
        copies = {id(x): x.clone() for x in leaves if isinstance(x, Tensor)}  # it may be changed
        self.inputs: list | None = [copies.get(id(x), x) for x in leaves]
        self.ahead: Tensor | None = None  # of the draws from 1 on

    def output(self, draw: int, groups: tuple, options: dict) -> Tensor:
        if draw > 0 and self.repeats(groups, options):
            if self.ahead is None:
                seeds = self.seeds[1:]
                self.ahead = kernelized_attention(*groups, draws=len(seeds), seed=seeds, **options)
            return self.ahead[draw - 1]
        if draw > 0:
            self.inputs = self.ahead = None
        return kernelized_attention(*groups, seed=self.seeds[draw], **options)

    def repeats(self, groups: tuple, options: dict) -> bool:
        """Whether these are the inputs of the first pass."""
        leaves = tree_flatten((groups, options))[0]
        if self.inputs is None or len(self.inputs) != len(leaves):
            return False
        return all(map(_same, self.inputs, leaves))


def _same(x: object, y: object) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    return type(x) is type(y) and x == y
