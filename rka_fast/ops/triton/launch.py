"""From the operator's arguments to launches: strides, scratch, grid and configuration.

The configuration comes from a small table, never from timing at the first call. Scratch lives
between the launches of one call only: a program reuses its own for every sequence it takes, so
that it stays in the L2 cache however large the batch is.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from rka_fast.ops.arguments import DIFFERENTIABLE, TIME_BUCKETS, Arguments, fold, time_edges
from rka_fast.ops.triton import attention, attention_backward, interpreted, scratch, times
from rka_fast.ops.triton.attention_backward import Gradients
from rka_fast.ops.triton.tiles import WARPS, Heads, Pairs, Problem, Size, Times

ONE_LAUNCH_KEYS = 128  # keys up to which one program does a whole sequence
MANY_SEQUENCES = 128  # sequences that fill a device by themselves, however long they are


class TileConfig(NamedTuple):
    """Tiles of `rows_tile` queries, `tile` keys and `chunk` columns, by so many warps.

    registers: a thread may have; left to itself the compiler saves some and spills instead.
    """

    rows_tile: int
    tile: int
    chunk: int
    num_warps: int
    registers: int
    programs_per_sm: int


# Chosen without a card, by benchmarks/kernel_report.py and by counts of the instructions that the
# sm_90 machine code executes. The kernels wait more than they compute, so programs that are there
# at once count most: four of 128 registers a thread do better than three of 168 or two of 255.
# Tiles of 64 and products of 64 take more registers and code than the instruction cache holds.
# Sequences and widths are walked in tiles and chunks, so longer and wider ones take no others.
FORWARD = BACKWARD = TileConfig(32, 32, 32, WARPS.value, registers=128, programs_per_sm=4)
AMD = FORWARD._replace(programs_per_sm=1)
N_BLOCKS = (64, 128, 1024)  # of keys, and widths, that the reports look at
WIDTHS = (64, 128)


def config(a: Arguments, backward: bool) -> TileConfig:
    """The configuration for these inputs."""
    if family(a.query.device) == "gfx942":
        return AMD
    return BACKWARD if backward else FORWARD


@cache
def family(device: torch.device) -> str:
    """The architecture family of the table: the newest that is not newer than the device."""
    if device.type != "cuda":
        return "sm_80"
    if torch.version.hip is not None:
        return "gfx942"
    capability = torch.cuda.get_device_capability(device)
    return "sm_90" if capability >= (9, 0) else "sm_86" if capability >= (8, 6) else "sm_80"


def run(kernel, grid: int, arguments: tuple, c: TileConfig) -> None:
    kernel[(grid,)](*arguments, **options(c, nvidia=on_nvidia()))


def options(c: TileConfig, nvidia: bool) -> dict[str, int]:
    """Of the compiler; only NVIDIA's can be given a number of registers.

    No software pipeline: it would fetch scratch before the barrier that announces it.
    """
    registers = {"maxnreg": c.registers} if nvidia else {}
    return {"num_warps": c.num_warps, "num_stages": 1, **registers}


def on_nvidia() -> bool:
    return torch.version.hip is None and not interpreted()


def forward(a: Arguments) -> Tensor:
    batch, heads, rows, _ = a.query.shape
    output = a.value.new_empty((batch, heads, rows, a.value.shape[-1]))
    c = config(a, backward=False)
    p, size = problem(a, c)
    factor, row = factor_size(p), rows_size(c, p, scratch.FORWARD_ROWS)
    if in_one_launch(a):
        grid = min(batch, programs(c, output.device))
        memory = new_scratch(grid * (factor + row), output.device)
        arguments = (p, *size, heads_of(output), memory, factor, row)
        run(attention.forward_kernel, grid, arguments, c)
        return output
    tiles = batch * heads * -(-rows // c.rows_tile)
    grid = min(tiles, programs(c, output.device))
    factors = new_scratch(batch * factor, output.device)
    memory = new_scratch(grid * row, output.device)
    run(attention.factor_kernel, batch, (p, *size, factors, factor), c)
    arguments = (p, *size, heads_of(output), factors, memory, factor, row)
    run(attention.rows_kernel, grid, arguments, c)
    return output


def in_one_launch(a: Arguments) -> bool:
    """By the shapes alone, so that the same call takes the same path on any device.

    Launches of their own spread a few long sequences over the device; they keep L and, backward,
    d L of each head for all sequences, which many sequences have neither need nor memory for.
    """
    return a.key.shape[2] <= ONE_LAUNCH_KEYS or a.key.shape[0] >= MANY_SEQUENCES


def backward(grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
    """Gradients of the arguments at the positions `needs`, in their dtypes."""
    batch, heads, _rows, _ = a.query.shape
    c = config(a, backward=True)
    p, size = problem(a, c)
    results, g = gradients(grad, needs, a)
    factor = factor_size(p) + p.pitch * p.pitch
    row = rows_size(c, p, scratch.BACKWARD_ROWS)
    if p.times is not None:
        row = rows_size(c, p, scratch.BACKWARD_ROWS + 1) + times.SUMS.value * c.rows_tile
    if in_one_launch(a):
        grid = min(batch, programs(c, grad.device))
        memory = new_scratch(grid * (factor + row), grad.device)
        run(attention_backward.backward_kernel, grid, (p, *size, g, memory, factor, row), c)
    else:
        factors = new_scratch(batch * factor, grad.device)
        d_factors = new_scratch(batch * heads * p.pitch**2 * g.covariance.value, grad.device)
        grid = min(batch * heads, programs(c, grad.device))
        memory = new_scratch(grid * row, grad.device)
        run(attention.factor_kernel, batch, (p, *size, factors, factor), c)
        arguments = (p, *size, g, factors, d_factors, memory, factor, row)
        run(attention_backward.heads_backward_kernel, grid, arguments, c)
        if g.covariance.value:
            run(attention_backward.adjoint_kernel, min(batch, grid), arguments, c)
    return [_finish(results.get(DIFFERENTIABLE[i]), DIFFERENTIABLE[i], a[i]) for i in needs]


def gradients(grad: Tensor, needs: list[int], a: Arguments) -> tuple[dict, Gradients]:
    """Where the kernels write: float32, one share per sequence for what sequences share."""
    given = a.shape_query is not None, a.correlation is not None
    names, has_covariance = _written(tuple(needs), a.mode, *given)
    results = {}
    for name in names:
        argument = getattr(a, name)
        if argument is not None:
            results[name] = _new_gradient(name, argument, a)
    heads_or_pointer = {
        n: heads_of(x) if x.dim() == 4 and n != "bias" else x for n, x in results.items()
    }
    outputs = {"output": heads_of(grad), "covariance": has_covariance}
    return results, Gradients(**_NO_GRADIENTS | heads_or_pointer | outputs)


SHARED = ("bias", "scale_bias", "concentration", "mixture", "time_table")  # by sequences
_NO_GRADIENTS = dict.fromkeys(Gradients._fields)


@cache
def _written(
    needs: tuple[int, ...], mode: str, shape: bool, ready: bool
) -> tuple[tuple[str, ...], tl.constexpr]:
    """The names of the gradients that the kernels write, and whether the covariance's are there."""
    needed = {DIFFERENTIABLE[i] for i in needs}
    spread = mode != "location"
    shaped = spread and shape
    if not ready:
        covariance = ("features", "concentration", "mixture", "gate")
    else:
        covariance = ("factor",) if mode == "sample" else ("correlation",)
    has_covariance = bool(needed & set(covariance)) and (shaped or mode == "sample")
    names = {"query", "key", "value", "bias", "time_table"} & needed
    names |= {"scale_query", "scale_key", "scale_bias"} & needed if spread else set()
    names |= {"shape_query", "shape_key"} & needed if shaped else set()
    names |= set(covariance) if has_covariance else set()
    return tuple(x for x in DIFFERENTIABLE if x in names), tl.constexpr(has_covariance)


def _new_gradient(name: str, x: Tensor, a: Arguments) -> Tensor:
    """Memory for the gradient of the argument x, contiguous."""
    batch, heads, rows, _ = a.query.shape
    if name not in SHARED:
        if x.dtype == torch.float32 and x.is_contiguous():
            return torch.empty_like(x)  # in half the time
        return torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if name == "bias":
        shape = batch, heads, rows, a.key.shape[2]
        return torch.zeros(shape, dtype=torch.float32, device=x.device)
    widths = {"scale_bias": (heads,), "time_table": (heads, TIME_BUCKETS)}
    shape = batch, *widths.get(name, x.shape[-1:])
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _finish(grad: Tensor | None, name: str, argument: Tensor) -> Tensor:
    """The gradient in the shape and dtype of its argument; zeros where it had no effect."""
    if grad is None:
        return argument.new_zeros(argument.shape)  # contiguous, as the fake kernel says
    return fold(name, grad, argument)


def problem(a: Arguments, c: TileConfig) -> tuple[Problem, Size]:
    """The arguments as the kernels read them; nothing is copied that is already so."""
    batch, heads, rows, _ = a.query.shape
    keys = a.key.shape[2]
    pitch = -(-keys // c.tile) * c.tile
    mixture = None if a.mixture is None else _small(a.mixture)
    features = None if a.mode == "location" else a.features
    exact = full_precision(a.query.device)
    in_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    half = a.query.dtype != torch.float32  # features are often float32 beside it
    p = Problem(
        query=heads_of(a.query),
        key=heads_of(a.key),
        value=heads_of(a.value),
        bias=None if a.bias is None else pairs_of(a.bias.float(), a),
        times=None if a.time_table is None else times_of(a),
        scale=a.scale,
        scale_query=heads_of(a.scale_query),
        scale_key=heads_of(a.scale_key),
        scale_bias=_small(a.scale_bias),
        shape_query=heads_of(a.shape_query),
        shape_key=heads_of(a.shape_key),
        features=_small(a.features),
        feature_width=0 if features is None else features.shape[2],
        concentration=_small(a.concentration),
        mixture=mixture,
        mixture_batch=0 if features is None or mixture.shape[0] == 1 else 3,
        gate=_small(a.gate),
        counts=_small(a.cooccurrence),
        correlation=_small(a.correlation),
        factor=_small(a.factor),
        prior=None if a.prior is None else pairs_of(a.prior.float(), a),
        mask=None if a.mask is None else pairs_of(a.mask.view(torch.uint8), a),
        padding=None if a.padding is None else a.padding.contiguous().view(torch.uint8),
        seed=a.seed,
        dropout=a.dropout if a.dropout > 0.0 else None,
        jitter=a.jitter,
        pitch=pitch,
        **_settled(
            mode=a.mode,
            activation=a.activation,
            causal=a.causal,
            mask_per_head=a.mask is not None and a.mask.shape[1] > 1,
            precision="tf32" if half or in_tf32 else exact,  # which holds halves exactly
            feature_precision="tf32" if in_tf32 else exact,
            exact=exact,
            even_features=features is not None and features.shape[2] % 2 == 0,
            rows_tile=c.rows_tile,
            tile=c.tile,
            chunk=c.chunk,
        ),
    )
    return p, Size(batch, heads, rows, keys, a.row_offset or None)


@cache
def _settled(**values: object) -> dict[str, tl.constexpr]:
    """What is known when a kernel is compiled; made once, as every call asks for the same."""
    return {name: tl.constexpr(value) for name, value in values.items()}


def full_precision(device: torch.device) -> str:
    """Of products in float32: NVIDIA's tensor cores take tf32, so four times of it."""
    return "ieee" if interpreted() or family(device) == "gfx942" else "tf32x4"


def factor_size(p: Problem) -> int:
    """K or L, the inverses of its diagonal blocks, norms, the origin: floats."""
    return p.pitch * (p.pitch + p.tile.value + 4)


def rows_size(c: TileConfig, p: Problem, count: int) -> int:
    """A tile of rows for each of `count` quantities, and some values of each row: floats."""
    return (scratch.VALUES.value + count * p.pitch) * max(c.rows_tile, c.tile)


def new_scratch(size: int, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=torch.float32, device=device)


def programs(c: TileConfig, device: torch.device) -> int:
    """How many programs are on the device at once."""
    if device.type != "cuda":
        return 2
    return c.programs_per_sm * _multiprocessors(device)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


_EVEN = tl.constexpr(False), tl.constexpr(True)


def heads_of(x: Tensor | None) -> Heads | None:
    if x is None:
        return None
    batch, head, row, column = x.stride()
    width = x.shape[-1]
    if column != 1 and width > 1:
        return heads_of(x.contiguous())
    even = (batch | head | row | width) & 1 == 0
    return Heads(x, batch, head, row, width, _EVEN[even])


def times_of(a: Arguments) -> Times:
    table, rows, keys = a.time_table, a.row_times, a.key_times
    head = 0 if table.shape[0] == 1 else TIME_BUCKETS
    return Times(_small(table), head, rows.contiguous(), keys.contiguous(), _ends(table.device))


@cache
def _ends(device: torch.device) -> Tensor:
    return torch.tensor((*(edge - 1 for edge in time_edges()[1:]), -1), device=device)


def pairs_of(x: Tensor, a: Arguments) -> Pairs:
    x = x.expand(*a.query.shape[:3], a.key.shape[2])
    return Pairs(x, *x.stride())


def _small(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()
