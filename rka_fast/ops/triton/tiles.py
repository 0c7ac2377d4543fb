"""What the kernels are made of: the operator's arguments as they see them, and loads by tiles.

A kernel takes its arguments as named tuples, whose fields that are None or `tl.constexpr` are
settled when it is compiled. Queries come in tiles of `rows_tile`, keys in tiles of `tile`, widths
in chunks of `chunk`; every tile beyond the end of a tensor is filled with zeros.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Heads(NamedTuple):
    """(B, H, n or m, width) with strides in elements; the last one is 1."""

    data: object
    batch: int
    head: int
    row: int
    width: int


class Grid(NamedTuple):
    """(B, H, n, m) with strides in elements, 0 where it is broadcast."""

    data: object
    batch: int
    head: int
    row: int
    column: int


class Size(NamedTuple):
    """Arguments of a kernel by themselves, for `do_not_specialize` looks into no tuple."""

    batch: int
    heads: int
    rows: int
    keys: int


# Never specialised. Strides are, by divisibility by 16, so a new length may compile anew.
SIZES = Size._fields


class Problem(NamedTuple):
    """The operator's arguments as the kernels see them."""

    query: Heads
    key: Heads
    value: Heads
    bias: Grid | None
    scale_query: Heads | None
    scale_key: Heads | None
    scale_bias: object  # (H,)
    shape_query: Heads | None
    shape_key: Heads | None
    features: object  # (B, m, feature_width)
    feature_width: int
    concentration: object  # (2,)
    mixture: object  # (B or 1, 3)
    mixture_batch: int  # stride
    gate: object  # (B, feature_width)
    counts: object  # (B, m, m)
    mask: Grid | None  # bytes
    padding: object  # (B, m) bytes
    seed: object
    dropout: float | None
    jitter: float
    pitch: int  # keys rounded up to whole tiles: leading dimension of everything in scratch
    mode: object  # constexpr from here on
    activation: object
    causal: object
    mask_per_head: object
    # Of the products of queries, keys and values, and of features; the draw's are always "ieee".
    precision: object
    feature_precision: object
    rows_tile: object
    tile: object
    chunk: object


@triton.jit
def inverse_norms(p, f, which: tl.constexpr):
    """1 / norm of the items (which = 0), of the gated items (1), of the counts (2): (pitch,)."""
    return f + p.pitch * (p.pitch + p.tile + which)


@triton.jit
def origin(p, f):
    """A zero that the compiler cannot foresee, from the scratch of a sequence.

    Indices that start from it are formed anew in each phase. Otherwise the addresses of all phases
    are the same in every iteration, are computed before the first one and fill the registers.
    """
    return tl.load(inverse_norms(p, f, 3), volatile=True).to(tl.int32) * 32  # known as aligned


@triton.jit
def set_origin(p, f):
    tl.store(inverse_norms(p, f, 3), 0.0)
    tl.debug_barrier()


@triton.jit
def exists(p, s, b, j):
    """Which keys are there: within the sequence and not padding."""
    inside = j < s.keys
    if p.padding is not None:
        padding = tl.load(p.padding + tl.cast(b, tl.int64) * s.keys + j, mask=inside, other=1)
        inside = inside & (padding == 0)
    return inside


@triton.jit
def allowed(p, s, b, h, i, j):
    """M at rows i and keys j."""
    seen = (i < s.rows)[:, None] & exists(p, s, b, j)[None, :]
    if p.causal:
        seen = seen & (j[None, :] <= i[:, None])
    if p.mask is not None:
        seen = seen & (load_grid(p.mask, b, h, i, j, seen) != 0)
    return seen


@triton.jit
def last_key(p, s, first_row):
    """One beyond the last key that the rows of a tile may see."""
    limit = s.keys
    if p.causal:
        limit = tl.minimum(s.keys, first_row + p.rows_tile)
    return limit


@triton.jit
def load_grid(x, b, h, i, j, where):
    at = x.data + tl.cast(b, tl.int64) * x.batch + tl.cast(h, tl.int64) * x.head
    at += tl.cast(i, tl.int64)[:, None] * x.row + tl.cast(j, tl.int64)[None, :] * x.column
    return tl.load(at, mask=where, other=0)


@triton.jit
def load_heads(x, b, h, i, c, where):
    """Rows i and columns c of one head in float32, zeros where not `where` (per row)."""
    at = x.data + tl.cast(b, tl.int64) * x.batch + tl.cast(h, tl.int64) * x.head
    at += tl.cast(i, tl.int64)[:, None] * x.row + c[None, :]
    return tl.load(at, mask=where[:, None] & (c < x.width)[None, :], other=0.0).to(tl.float32)


@triton.jit
def load_tile(x, pitch, i, j):
    """A tile of a matrix in scratch, rows i and columns j."""
    return tl.load(x + i[:, None] * pitch + j[None, :])


@triton.jit
def store_tile(x, pitch, i, j, tile):
    tl.store(x + i[:, None] * pitch + j[None, :], tile)


@triton.jit
def scores(p, s, f, query, key, b, h, i, j):
    """q k' / sqrt(width) at rows i and keys j."""
    zero = origin(p, f)
    b, h, i, j = b + zero, h + zero, i + zero, j + zero
    there = exists(p, s, b, j)
    acc = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    for first in range(0, query.width, p.chunk):
        c = first + zero + tl.arange(0, p.chunk)
        x = load_heads(query, b, h, i, c, i < s.rows)
        y = load_heads(key, b, h, j, c, there)
        acc = tl.dot(x, tl.trans(y), acc, input_precision=p.precision)
    return acc * inverse_root(query.width)


@triton.jit
def rounded(x, precision: tl.constexpr):
    """What was computed in float32, for a product with inputs: tf32 alone would cut 13 bits off.

    To nearest, it has as many bits as float16. NaN, which may be all ones, must not overflow.
    """
    if precision == "tf32":
        bits = x.to(tl.int32, bitcast=True)
        bits = tl.where(x == x, (bits + 0x1000) & -0x2000, bits)
        x = bits.to(tl.float32, bitcast=True)
    return x


@triton.jit
def inverse_root(width):
    return 1.0 / tl.sqrt(tl.cast(width, tl.float32))


@triton.jit
def activate(activation: tl.constexpr, x):
    if activation == "leaky_relu":
        x = tl.where(x > 0, x, 0.01 * x)
    elif activation == "relu":
        x = tl.where(x <= 0, 0.0, x)  # NaN stays NaN
    elif activation == "tanh":
        x = tanh(x)
    return x


@triton.jit
def slope(activation: tl.constexpr, x):
    """The derivative of the activation at x."""
    if activation == "leaky_relu":
        x = tl.where(x > 0, 1.0, 0.01)
    elif activation == "relu":
        x = tl.where(x > 0, 1.0, 0.0)
    elif activation == "tanh":
        y = tanh(x)
        x = 1.0 - y * y
    else:
        x = x * 0.0 + 1.0
    return x


@triton.jit
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def softplus(x):
    """log(1 + e^x), and its derivative, the sigmoid."""
    e = tl.exp(-tl.abs(x))
    one_more = 1.0 + e
    # log(1 + e) without losing a small e: the rounding of 1 + e cancels in the quotient.
    log1p = tl.where(one_more == 1.0, e, tl.log(one_more) * e / (one_more - 1.0))
    return tl.maximum(x, 0.0) + log1p, tl.where(x < 0, e, 1.0) / one_more
