"""Inputs of the card's steps, and what they run: raw arguments, backends, clocks."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments
from rka_fast.ops.backends import BACKENDS, Backend

DEVICE = os.environ.get("CARD_DEVICE", "cuda")
SIZE = os.environ.get("CARD_SIZE", "full")  # full, quick or dry


class Shape(NamedTuple):
    """Sequences, heads, length and width of a head."""

    batch: int
    heads: int
    length: int
    width: int


def shapes() -> list[Shape]:
    """What is timed: the whole grid, its main rows, or one small shape for a dry run."""
    if SIZE == "dry":
        return [Shape(8, 1, 10, 8)]
    if SIZE == "quick":
        return [Shape(4096, 1, n, d) for n, d in ((50, 50), (64, 64))] + [Shape(256, 4, 200, 64)]
    grid = [Shape(b, h, n, 64) for b in (4096, 256) for h in (1, 4) for n in (50, 64, 100, 128)]
    return [Shape(4096, 1, 50, 50), *grid, *(Shape(b, 4, 200, 64) for b in (1024, 256))]


CASES: tuple[dict[str, Any], ...] = (
    {},
    {"length": 64, "width": 64},
    {"heads": 2, "width": 32, "mask": "heads", "bias": True, "causal": False},
    {"mode": "mean"},
    {"mode": "location"},
    {"length": 33, "width": 20, "heads": 2, "mask": "shared", "activation": "tanh"},
    {"shape": False},
    {"counts": False, "gate": False, "padding": False},
    {"length": 1, "width": 8},
    {"length": 50, "width": 50, "repeated": True},
    {"length": 100, "width": 32, "heads": 2},
    {"length": 128, "width": 64, "heads": 2},
    {"length": 200, "width": 64, "heads": 2, "transposed": True},
    {"length": 300, "width": 16},
    {"length": 64, "width": 64, "dtype": torch.bfloat16},
    {"length": 50, "width": 50, "dtype": torch.float16, "heads": 2},
    {"length": 65, "width": 20, "counts": False, "mask": "shared"},
    {"length": 129, "width": 32, "heads": 2, "mode": "mean", "counts": False},
    {"length": 130, "width": 33, "heads": 2, "mask": "heads", "bias": True},
    {"length": 100, "width": 64, "dtype": torch.bfloat16},
    {"length": 1024, "width": 16, "batch": 1},
)


def arguments(
    batch: int = 3,
    heads: int = 1,
    length: int = 50,
    width: int = 50,
    *,
    mode: str = "sample",
    dropout: float = 0.1,
    mask: str = "",
    bias: bool = False,
    padding: bool = True,
    gate: bool = True,
    counts: bool = True,
    causal: bool = True,
    shape: bool = True,
    repeated: bool = False,
    transposed: bool = False,
    activation: str = "leaky_relu",
    dtype: torch.dtype = torch.float32,
) -> Arguments:
    """The operator's arguments on the device, drawn from one seed.

    mask: "" none, "shared" by the heads, or one of the "heads" each. repeated: every item of a
    sequence occurs twice. transposed: heads are strided, as a projection leaves them.
    """
    rng = torch.Generator().manual_seed(0)
    features = heads * width

    def new(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    def rows() -> Tensor:
        x = new(batch, length, heads, width).transpose(1, 2)
        return (x if transposed else x.contiguous()).to(dtype)

    def pair(wanted: bool = True) -> tuple[Tensor | None, Tensor | None]:
        return (rows(), rows()) if wanted else (None, None)

    x, bought = new(batch, length, features), torch.rand(batch, length, 40, generator=rng) < 0.3
    if repeated:
        half = torch.arange(length) // 2
        x, bought = x[:, half], bought[:, half]
    bought = bought.float()
    absent = torch.arange(length) < (7 * torch.arange(batch) % (length // 2 + 1))[:, None]
    masked = torch.rand(batch, heads if mask == "heads" else 1, length, length, generator=rng)
    a = Arguments(
        *pair(), rows(), new(batch, 1, length, length) if bias else None, *pair(), new(heads),
        *pair(shape), x, torch.tensor([1.7, 0.6]), torch.softmax(new(batch, 3), -1),
        2 * torch.rand(batch, features, generator=rng) if gate else None,
        cooccurrence=bought @ bought.mT if counts else None,
        mask=masked < 0.7 if mask else None, padding=absent if padding else None,
        seed=torch.tensor(1234567890123), causal=causal, mode=mode, activation=activation,
        dropout=dropout,
    )  # fmt: skip
    return each(a, lambda x: x.to(DEVICE))


def plain(shape: Shape) -> Arguments:
    """What is timed: all parts, causal, one draw, no padding and no dropout."""
    return arguments(*shape, padding=False, dropout=0.0)


def each(a: Arguments, function: Callable[[Tensor], Tensor]) -> Arguments:
    return Arguments(*(function(x) if isinstance(x, Tensor) else x for x in a))


def double(a: Arguments) -> Arguments:
    return each(a, lambda x: x.double() if x.is_floating_point() else x)


def first(a: Arguments, count: int) -> Arguments:
    """The first sequences alone."""
    batch = a.query.shape[0]
    return each(a, lambda x: x[:count] if x.dim() and x.shape[0] == batch else x)


def needs(a: Arguments) -> list[int]:
    """Positions of the arguments that have a gradient."""
    return [i for i, name in enumerate(DIFFERENTIABLE) if getattr(a, name) is not None]


def backends() -> dict[str, Backend]:
    """Those that serve tensors on the device, without the reference."""
    a = arguments(1, length=8, width=8)
    found = {name: b for name, b in BACKENDS.items() if not b.why_not(a)}
    return {name: b for name, b in found.items() if name != "reference"}


def poison() -> None:
    """What the allocator hands out next holds NaN."""
    sizes = [1 << k for k in range(8, 20)] + ([1 << 24] * 8 if DEVICE == "cuda" else [])
    kept = [torch.full((size,), torch.nan, device=DEVICE) for size in sizes]
    del kept


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def median_ms(call: Callable[[], Any], most: float = 0.5) -> float:
    """Median time of a call in ms: CUDA events, or the clock where there is no GPU."""
    call()
    synchronize()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begun < most and len(times) < 60):
        if DEVICE == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            call()
            after.record()
            torch.cuda.synchronize()
            times.append(before.elapsed_time(after))
        else:
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
