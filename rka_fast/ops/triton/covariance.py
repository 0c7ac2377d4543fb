"""K of one sequence into scratch, its factor, and the way back; the stem of the reference.

Everything is done by the one program that owns the sequence, tile by tile: what one thread wrote
to scratch another one reads, hence `tl.debug_barrier()` after every phase.
"""

import triton
import triton.language as tl

from rka_fast.ops.triton.tiles import exists, inverse_norms, load_tile, origin, store_tile


@triton.jit
def inverse_blocks(p, f):
    """The inverses of the diagonal blocks of L, one below the other: (pitch, tile)."""
    return f + p.pitch * p.pitch


@triton.jit
def d_correlation(p, f):
    """The gradient of L, in place of which comes that of K: (pitch, pitch)."""
    return f + p.pitch * (p.pitch + p.tile + 4)


@triton.jit
def load_features(p, s, b, i, c, gated: tl.constexpr):
    there = exists(p, s, b, i)
    at = p.features + (tl.cast(b, tl.int64) * s.keys + i[:, None]) * p.feature_width + c[None, :]
    inside = c < p.feature_width
    x = tl.load(at, mask=there[:, None] & inside[None, :], other=0.0)
    if gated:
        x = x * load_gate(p, b, c)[None, :]
    return x


@triton.jit
def load_gate(p, b, c):
    at = p.gate + tl.cast(b, tl.int64) * p.feature_width + c
    return tl.load(at, mask=c < p.feature_width, other=0.0)


@triton.jit
def gram(p, s, f, b, i, j, gated: tl.constexpr):
    zero = origin(p, f)
    b, i, j = b + zero, i + zero, j + zero
    acc = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    for first in range(0, p.feature_width, p.chunk):
        c = first + zero + tl.arange(0, p.chunk)
        x = load_features(p, s, b, i, c, gated)
        y = load_features(p, s, b, j, c, gated)
        acc = tl.dot(x, tl.trans(y), acc, input_precision=p.feature_precision)
    return acc


@triton.jit
def store_inverse_norms(p, s, b, i, f, gated: tl.constexpr):
    """From the diagonal of the same product as all other entries: K stays positive definite."""
    g = gram(p, s, f, b, i, i, gated)
    square = tl.sum(tl.where(i[:, None] == i[None, :], g, 0.0), axis=1)
    store_inverse_root(p, f, gated, i, square)


@triton.jit
def store_inverse_root(p, f, which: tl.constexpr, i, square):
    # where() twice, so that nothing is divided by zero.
    root = tl.sqrt_rn(tl.where(square > 0, square, 1.0))
    tl.store(inverse_norms(p, f, which) + i, tl.where(square > 0, 1.0 / root, 0.0))


@triton.jit
def load_counts(p, s, b, i, j, where):
    at = p.counts + (tl.cast(b, tl.int64) * s.keys + i[:, None]) * s.keys + j[None, :]
    return tl.load(at, mask=where, other=0.0)


@triton.jit(noinline=True)
def describe_keys(p, s, b, f):
    local = origin(p, f) + tl.arange(0, p.tile)
    for first in range(0, p.pitch, p.tile):
        i = first + local
        store_inverse_norms(p, s, b, i, f, False)
        if p.gate is not None:
            store_inverse_norms(p, s, b, i, f, True)
        if p.counts is not None:
            at = p.counts + (tl.cast(b, tl.int64) * s.keys + i) * s.keys + i
            store_inverse_root(p, f, 2, i, tl.load(at, mask=i < s.keys, other=0.0))
    tl.debug_barrier()


@triton.jit
def cosine(p, s, b, f, i, j, gated: tl.constexpr):
    """cos(x_i, x_j), and the product of the inverse norms."""
    norms = inverse_norms(p, f, gated)
    outer = tl.load(norms + i)[:, None] * tl.load(norms + j)[None, :]
    return gram(p, s, f, b, i, j, gated) * outer, outer


@triton.jit
def counting_kernel(p, s, b, f, i, j):
    norms = inverse_norms(p, f, 2)
    outer = tl.load(norms + i)[:, None] * tl.load(norms + j)[None, :]
    inside = (i < s.keys)[:, None] & (j < s.keys)[None, :]
    return load_counts(p, s, b, i, j, inside) * outer


@triton.jit
def weight(p, b, which: tl.constexpr):
    return tl.load(p.mixture + tl.cast(b, tl.int64) * p.mixture_batch + which)


@triton.jit
def correlation(p, s, b, f, full: tl.constexpr):
    """K into scratch; zeros above the diagonal unless `full`, ones beyond the last key."""
    describe_keys(p, s, b, f)
    add_cosine_kernel(p, s, b, f, full, False)
    if p.gate is not None:
        add_cosine_kernel(p, s, b, f, full, True)
    complete_correlation(p, s, b, f, full)


@triton.jit(noinline=True)
def add_cosine_kernel(p, s, b, f, full: tl.constexpr, gated: tl.constexpr):
    """The item kernel with its weight; `gated`: the user kernel is added to it."""
    zero = origin(p, f)
    local = zero + tl.arange(0, p.tile)
    b += zero
    for first_i in range(0, p.pitch, p.tile):
        i = first_i + local
        last = p.pitch if full else first_i + p.tile
        for first_j in range(0, last, p.tile):
            j = first_j + local
            cos, _ = cosine(p, s, b, f, i, j, gated)
            gamma = tl.load(p.concentration + gated)
            k = weight(p, b, 1 + gated) * tl.exp(2.0 * gamma * (cos - 1.0))
            if gated:
                k += load_tile(f, p.pitch, i, j)
            store_tile(f, p.pitch, i, j, k)
    tl.debug_barrier()


@triton.jit(noinline=True)
def complete_correlation(p, s, b, f, full: tl.constexpr):
    """The counting kernel is added, padding made independent, the diagonal exactly one."""
    zero = origin(p, f)
    local = zero + tl.arange(0, p.tile)
    b += zero
    for first_i in range(0, p.pitch, p.tile):
        i = first_i + local
        last = p.pitch if full else first_i + p.tile
        for first_j in range(0, last, p.tile):
            j = first_j + local
            k = load_tile(f, p.pitch, i, j)
            if p.counts is not None:
                k += weight(p, b, 0) * counting_kernel(p, s, b, f, i, j)
            related = exists(p, s, b, i)[:, None] & exists(p, s, b, j)[None, :]
            if not full:
                related = related & (i[:, None] > j[None, :])
            k = tl.where(related, k / (1.0 + p.jitter), 0.0)
            store_tile(f, p.pitch, i, j, tl.where(i[:, None] == j[None, :], 1.0, k))
    tl.debug_barrier()


@triton.jit
def factor_block(k, least, tile: tl.constexpr):
    """Lower factor of one block, its inverse, which columns go on below it, and whether it is free
    of NaN.

    Column by column in registers; the same steps on the identity give the inverse. A pivot that
    rounding has left at 0 or below becomes `least` and its column ends there (see the reference).
    """
    row = tl.arange(0, tile)[:, None]
    column = tl.arange(0, tile)[None, :]
    lower = tl.zeros((tile, tile), tl.float32)
    inverse = tl.where(row == column, 1.0, 0.0)
    goes_on = tl.full((tile,), 1.0, tl.float32)
    good = tl.full((), 1.0, tl.float32)
    for step in range(tile):
        below = tl.sum(tl.where((column == step) & (row >= step), k, 0.0), axis=1)
        pivot = tl.sum(tl.where(tl.arange(0, tile) == step, below, 0.0), axis=0)
        good = tl.where(pivot < float("inf"), good, 0.0)
        ends = pivot <= 0
        goes_on = tl.where(tl.arange(0, tile) == step, tl.where(ends, 0.0, 1.0), goes_on)
        root = tl.sqrt_rn(tl.where(ends, least, pivot))
        at_pivot = tl.where(tl.arange(0, tile) == step, root, 0.0)
        below = tl.where(ends, at_pivot, below / root)
        lower = tl.where(column == step, below[:, None], lower)
        k = k - below[:, None] * below[None, :]
        solved = tl.sum(tl.where(row == step, inverse, 0.0), axis=0)[None, :] / root
        left = tl.where(row > step, below[:, None], 0.0)
        inverse = tl.where(row == step, solved, inverse - left * solved)
    return lower, inverse, goes_on, good


@triton.jit(noinline=True)
def cholesky(p, s, b, f):
    """L in place of K, and the inverses of its diagonal blocks; NaN if there is one in K.

    Column of blocks after column of blocks: what the finished columns contribute is subtracted by
    matrix products, the diagonal block is factored in registers, its inverse gives the rest.
    """
    all_good = tl.full((), 1.0, tl.float32)
    least = p.jitter / (1.0 + p.jitter)
    local = origin(p, f) + tl.arange(0, p.tile)
    for first in range(0, p.pitch, p.tile):
        j = first + local
        remainder = finished_columns(p, f, j, j, first)
        lower, inverse, goes_on, good = factor_block(remainder, least, p.tile)
        all_good = all_good * good
        store_tile(f, p.pitch, j, j, lower)
        store_tile(inverse_blocks(p, f), p.tile, j, local, inverse)
        for first_i in range(first + p.tile, p.pitch, p.tile):
            i = first_i + local
            panel = finished_columns(p, f, i, j, first)
            panel = tl.dot(panel, tl.trans(inverse), input_precision="ieee") * goes_on[None, :]
            store_tile(f, p.pitch, i, j, panel)
        tl.debug_barrier()
    if all_good == 0:  # as the reference: no row of this sequence pretends to have been drawn
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + tl.arange(0, p.tile)
            for first_j in range(0, first_i + p.tile, p.tile):
                j = first_j + tl.arange(0, p.tile)
                nan = tl.where(i[:, None] >= j[None, :], float("nan"), 0.0)
                store_tile(f, p.pitch, i, j, nan)
    tl.debug_barrier()


@triton.jit
def finished_columns(p, f, i, j, first):
    """K_ij less what the columns before `first` contribute."""
    acc = tl.zeros((p.tile, p.tile), tl.float32)
    for first_k in range(0, first, p.tile):
        k = first_k - first + j
        x, y = load_tile(f, p.pitch, i, k), load_tile(f, p.pitch, j, k)
        acc = tl.dot(x, tl.trans(y), acc, input_precision="ieee")
    return load_tile(f, p.pitch, i, j) - acc
