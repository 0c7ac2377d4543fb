"""What the kernels are made of: the operator's arguments as they see them, and loads by tiles.

A kernel takes its arguments as named tuples, whose fields that are None or `tl.constexpr` are
settled when it is compiled. Queries come in tiles of `rows_tile`, keys in tiles of `tile`, widths
in chunks of `chunk`; every tile beyond the end of a tensor is filled with zeros.

Short names, the same in all kernels:

    p  the arguments (`Problem`)         b, h  sequence and head
    s  the sizes (`Size`)                i, j  rows and keys of a tile, as vectors of indices
    g  the gradients (`Gradients`)       c     columns of a width
    f  scratch of a sequence: K or L     m     which keys a row may see, as 0 and 1
    r  scratch of a tile of rows         z, w  logits and weights
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
    even: object  # constexpr: all of these are


class Pairs(NamedTuple):
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
    row_offset: int | None  # query i is position i + row_offset


class Times(NamedTuple):
    """Relative times, added to the location by the bucket of their distance."""

    table: object  # (H or 1, TIME_BUCKETS)
    head: int  # stride, 0 where the heads share one row
    rows: object  # (B, n) int64 seconds
    keys: object  # (B, m)
    ends: object  # (TIME_BUCKETS,) the most seconds of each bucket, the last all bits of int64


WARPS = tl.constexpr(4)  # of every kernel
# Never specialised. Strides are, by divisibility by 16, so a new length may compile anew.
SIZES = Size._fields


class Problem(NamedTuple):
    """The operator's arguments as the kernels see them."""

    query: Heads
    key: Heads
    value: Heads
    bias: Pairs | None
    times: Times | None
    scale: float | None  # of the location's products, if not the inverse root of their width
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
    correlation: object  # (B, m, m), ready-made, and so are the factor and
    factor: object
    prior: Pairs | None
    mask: Pairs | None  # bytes
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
    exact: object
    even_features: object  # whether their width is
    rows_tile: object
    tile: object
    chunk: object


@triton.jit
def position(s, i):
    """Of queries i among the keys, for noise, causality and prior."""
    if s.row_offset is not None:
        i += s.row_offset
    return i


@triton.jit
def inverse_norms(p, f, which):
    """1 / norm of the items (which = 0), of the gated items (1), of the counts (2): (pitch,)."""
    return f + p.pitch * (p.pitch + p.tile + which)


@triton.jit
def multiply(x, y, acc, precision: tl.constexpr):
    """acc + x y; "tf32x4": in float32, by tensor cores that take no more than tf32.

    Each operand is a sum of two numbers that tf32 holds, and the four products of those lie one
    after another along the summed dimension, eight at a time: so few registers hold operands at
    once. Each warp takes sixteen rows and its part of the columns (without the first dimension, of
    the warps, Hopper's instructions for four warps would want both operands whole). The columns of
    x come as (.., 4, 2), those that a thread has from a previous product, and leave as (.., 2, 4),
    those that it must have for this one: then x need not be exchanged between threads.
    """
    if precision != "tf32x4":
        acc = tl.dot(x, y, acc, input_precision=precision)
    else:
        rows: tl.constexpr = x.shape[0]
        depth: tl.constexpr = x.shape[1]
        width: tl.constexpr = y.shape[1]
        groups: tl.constexpr = rows // 16
        parts: tl.constexpr = WARPS // groups  # of the columns
        part: tl.constexpr = width // parts
        x = tl.reshape(split(x), (groups, 1, 16, depth // 8, 4, 2, 2, 1))
        x = tl.broadcast_to(x, (groups, parts, 16, depth // 8, 4, 2, 2, 2))
        x = tl.reshape(tl.permute(x, (0, 1, 2, 3, 6, 7, 5, 4)), (WARPS, 16, 4 * depth))
        y = tl.reshape(split(y), (1, depth // 8, 4, 2, parts, part, 1, 2))
        y = tl.broadcast_to(y, (groups, depth // 8, 4, 2, parts, part, 2, 2))
        y = tl.reshape(tl.permute(y, (0, 4, 1, 6, 7, 3, 2, 5)), (WARPS, 4 * depth, part))
        acc = tl.permute(tl.reshape(acc, (groups, 16, parts, part)), (0, 2, 1, 3))
        acc = tl.reshape(acc, (WARPS, 16, part))
        acc = tl.reshape(tl.dot(x, y, acc, input_precision="tf32"), (groups, parts, 16, part))
        acc = tl.reshape(tl.permute(acc, (0, 2, 1, 3)), (rows, width))
    return acc


@triton.jit
def split(x):
    """What tf32 holds of x, rounded to nearest, and the rest: their sum is x."""
    high = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    high = high.to(tl.float32, bitcast=True)
    return tl.join(high, x - high)


@triton.jit
def sum_products(x, y, axis: tl.constexpr):
    """The sum of x y.

    Not of the bare product: a compiler may fuse a multiplication with an addition across threads,
    and then they disagree about the last bit of the sum.
    """
    return tl.sum(tl.where(x == x, x * y, x), axis=axis)


@triton.jit
def exists(p, s, b, j):
    """Which keys are there: within the sequence and not padding.

    The condition always holds; without one the compiler would see that bytes decide what a
    product's operands hold, and lay the operands out as if they were bytes.
    """
    inside = j < s.keys
    if p.padding is not None:  # noqa: SIM102
        if s.keys > 0:
            padding = tl.load(p.padding + tl.cast(b, tl.int64) * s.keys + j, mask=inside, other=1)
            inside = inside & (padding == 0)
    return inside


@triton.jit
def allowed(p, s, b, h, i, j):
    """M at rows i and keys j."""
    seen = (i < s.rows)[:, None] & exists(p, s, b, j)[None, :]
    if p.causal:
        seen = seen & (j[None, :] <= position(s, i)[:, None])
    if p.mask is not None:  # noqa: SIM102
        if s.keys > 0:  # see `exists`
            seen = seen & (load_pairs(p.mask, b, h, i, j, seen) != 0)
    return seen


@triton.jit
def last_key(p, s, first_row):
    """One beyond the last key that the rows of a tile may see."""
    limit = s.keys
    if p.causal:
        limit = tl.minimum(s.keys, position(s, first_row) + p.rows_tile)
    return limit


@triton.jit
def load_pairs(x, b, h, i, j, where):
    at = x.data + tl.cast(b, tl.int64) * x.batch + tl.cast(h, tl.int64) * x.head
    at += tl.cast(i, tl.int64)[:, None] * x.row + tl.cast(j, tl.int64)[None, :] * x.column
    return tl.load(at, mask=where, other=0)


@triton.jit
def divisible(x, even: tl.constexpr):
    """x, of which the compiler sees that it is even: then two columns are loaded at once."""
    if even:
        x = x // 2 * 2
    return x


@triton.jit
def heads_at(x, b, h, i, c):
    at = x.data + tl.cast(b, tl.int64) * divisible(x.batch, x.even)
    at += tl.cast(h, tl.int64) * divisible(x.head, x.even)
    return at + tl.cast(i, tl.int64)[:, None] * divisible(x.row, x.even) + c[None, :]


@triton.jit
def load_heads(x, b, h, i, c, where):
    """Rows i and columns c of one head in float32, zeros where not `where` (per row)."""
    inside = where[:, None] & (c < divisible(x.width, x.even))[None, :]
    return tl.load(heads_at(x, b, h, i, c), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_heads(x, b, h, i, c, where, tile):
    inside = where[:, None] & (c < divisible(x.width, x.even))[None, :]
    tl.store(heads_at(x, b, h, i, c), tile.to(x.data.dtype.element_ty), mask=inside)


@triton.jit
def load_tile(x, pitch, i, j):
    """A tile of a matrix in scratch, rows i and columns j."""
    return tl.load(x + i[:, None] * pitch + j[None, :])


@triton.jit
def store_tile(x, pitch, i, j, tile):
    tl.store(x + i[:, None] * pitch + j[None, :], tile)


@triton.jit(noinline=True)
def write_scores(p, s, query, key, b, h, first_row, scale, to):
    """scale q k' of a tile of rows into scratch."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        there = exists(p, s, b, j)
        acc = tl.zeros((p.rows_tile, p.tile), tl.float32)
        for first_c in range(0, query.width, p.chunk):
            c = first_c + tl.arange(0, p.chunk)
            x = load_heads(query, b, h, i, c, i < s.rows)
            y = load_heads(key, b, h, j, c, there)
            acc = multiply(x, tl.trans(y), acc, p.precision)
        store_tile(to, p.pitch, local, j, acc * scale)
    tl.debug_barrier()


@triton.jit(noinline=True)
def write_rows(p, s, target, b, h, first_row, at, keys):
    """target_i = sum_j d_ij keys_j, d a tile of rows in scratch."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    for first_c in range(0, target.width, p.chunk):
        c = first_c + tl.arange(0, p.chunk)
        acc = tl.zeros((p.rows_tile, p.chunk), tl.float32)
        for first in range(0, last_key(p, s, first_row), p.tile):
            j = first + tl.arange(0, p.tile)
            d = load_tile(at, p.pitch, local, j)
            y = load_heads(keys, b, h, j, c, exists(p, s, b, j))
            acc = multiply(rounded(d, p.precision), y, acc, p.precision)
        store_heads(target, b, h, i, c, i < s.rows, acc)


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
def location_scale(p):
    scale = p.scale
    if p.scale is None:
        scale = inverse_root(p.query.width)
    return scale


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
def activation_slope(activation: tl.constexpr, x):
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
    inverse = 1.0 / one_more
    # The rounding of 1 + e is put right.
    log1p = tl.log(one_more) + (e - (one_more - 1.0)) * inverse
    return tl.maximum(x, 0.0) + log1p, tl.where(x < 0, e, 1.0) * inverse
