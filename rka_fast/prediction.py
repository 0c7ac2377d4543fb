"""`predict`: what a model answers over several draws of its attention logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rka_fast.context import use_draws
from rka_fast.errors import expect
from rka_fast.ops import check


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

    The model is called as often, inside `use_draws(model)`. Many draws of the operator alone are
    cheaper by its own `draws`.

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
    check.flags(return_draws=return_draws)
    if draws < 2:
        raise ValueError(f"draws: expected at least 2, for a spread, got {draws}")
    if model.training:
        raise ValueError("model: expected one in evaluation, got one in training: model.eval()")
    kept, mean, squares = [], torch.empty(0), torch.empty(0)
    with use_draws(model), _drawing_from(generator, model) as reseed:
        for i in range(draws):
            reseed()
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
