"""K of one sequence into scratch, its factor, the shape's prior; mirrors reference/covariance.py.

Everything is done by the one program that owns the sequence, tile by tile: what one thread wrote
to scratch another one reads, hence `tl.debug_barrier()` after every phase.
"""

import triton
import triton.language as tl

from rka_fast.ops.triton.scratch import PRIOR, PRIOR_SCALE, rows_at, store_value
from rka_fast.ops.triton.tiles import (
    allowed,
    divisible,
    exists,
    inverse_norms,
    last_key,
    load_tile,
    multiply,
    position,
    rounded,
    store_tile,
    sum_products,
)


@triton.jit
def inverse_blocks(p, f):
    """The inverses of the diagonal blocks of L, transposed, one below the other: (pitch, tile)."""
    return f + p.pitch * p.pitch


@triton.jit
def d_correlation(p, f):
    """The gradient of L, in place of which comes that of K: (pitch, pitch)."""
    return f + p.pitch * (p.pitch + p.tile + 4)


@triton.jit
def load_features(p, s, b, i, c):
    """Rows i and columns c of the features."""
    there = exists(p, s, b, i)
    width = divisible(p.feature_width, p.even_features)
    at = p.features + (tl.cast(b, tl.int64) * s.keys + i[:, None]) * width + c[None, :]
    inside = c < width
    return tl.load(at, mask=there[:, None] & inside[None, :], other=0.0)


@triton.jit
def load_gate(p, b, c):
    """The user's gate at columns c."""
    at = p.gate + tl.cast(b, tl.int64) * p.feature_width + c
    return tl.load(at, mask=c < p.feature_width, other=0.0)[None, :]


@triton.jit(noinline=True)
def write_grams(p, s, b, first_i, first_j, at, gated_at):
    """A tile of the Gram matrix of the features into scratch, and of that of the gated ones."""
    local = tl.arange(0, p.tile)
    precision: tl.constexpr = p.feature_precision
    gram = tl.zeros((p.tile, p.tile), tl.float32)
    gated = gram
    for first in range(0, p.feature_width, p.chunk):
        c = first + tl.arange(0, p.chunk)
        x = load_features(p, s, b, first_i + local, c)
        y = load_features(p, s, b, first_j + local, c)
        gram = multiply(rounded(x, precision), tl.trans(rounded(y, precision)), gram, precision)
        if p.gate is not None:
            x *= load_gate(p, b, c)
            if precision == "tf32":  # both rounded alike
                y *= load_gate(p, b, c)
            else:  # as good, and y goes to both products as it is
                x *= load_gate(p, b, c)
            y = tl.trans(rounded(y, precision))
            gated = multiply(rounded(x, precision), y, gated, precision)
    tl.debug_barrier()  # what was there is not needed any more
    store_tile(at, p.pitch, local, local, gram)
    if p.gate is not None:
        store_tile(gated_at, p.pitch, local, local, gated)
    tl.debug_barrier()


@triton.jit
def store_inverse_root(p, f, which, i, square):
    # where() twice, so that the root is never taken of zero.
    root = tl.rsqrt(tl.where(square > 0, square, 1.0))
    tl.store(inverse_norms(p, f, which) + i, tl.where(square > 0, root, 0.0))


@triton.jit
def load_counts(p, s, b, i, j, where):
    at = p.counts + (tl.cast(b, tl.int64) * s.keys + i[:, None]) * s.keys + j[None, :]
    return tl.load(at, mask=where, other=0.0)


@triton.jit(noinline=True)
def describe_keys(p, s, b, f):
    """Norms of the features, rounded as in their product, so that K stays positive definite."""
    local = tl.arange(0, p.tile)
    for first in range(0, p.pitch, p.tile):
        i = first + local
        square = tl.zeros((p.tile,), tl.float32)
        gated = square
        for first_c in range(0, p.feature_width, p.chunk):
            c = first_c + tl.arange(0, p.chunk)
            x = load_features(p, s, b, i, c)
            if p.gate is not None:
                y = rounded(x * load_gate(p, b, c), p.feature_precision)
                gated += sum_products(y, y, 1)
            x = rounded(x, p.feature_precision)
            square += sum_products(x, x, 1)
        store_inverse_root(p, f, 0, i, square)
        if p.gate is not None:
            store_inverse_root(p, f, 1, i, gated)
        if p.counts is not None:
            at = p.counts + (tl.cast(b, tl.int64) * s.keys + i) * s.keys + i
            store_inverse_root(p, f, 2, i, tl.load(at, mask=i < s.keys, other=0.0))
    tl.debug_barrier()


@triton.jit
def cosine(p, f, gram, i, j, gated):
    """cos(x_i, x_j) from a tile of a Gram matrix, and the product of the inverse norms."""
    norms = inverse_norms(p, f, gated)
    outer = tl.load(norms + i)[:, None] * tl.load(norms + j)[None, :]
    return gram * outer, outer


@triton.jit
def exponential_kernel(p, b, f, gram, i, j, gated):
    """The item's kernel or, `gated`, the user's, by its weight."""
    cos, _ = cosine(p, f, gram, i, j, gated)
    gamma = tl.load(p.concentration + gated)
    return weight(p, b, 1 + gated) * tl.exp(2.0 * gamma * (cos - 1.0))


@triton.jit
def counting_kernel(p, s, b, f, i, j):
    norms = inverse_norms(p, f, 2)
    outer = tl.load(norms + i)[:, None] * tl.load(norms + j)[None, :]
    inside = (i < s.keys)[:, None] & (j < s.keys)[None, :]
    return load_counts(p, s, b, i, j, inside) * outer


@triton.jit
def weight(p, b, which):
    return tl.load(p.mixture + tl.cast(b, tl.int64) * p.mixture_batch + which)


@triton.jit
def correlation(p, s, b, f, full: tl.constexpr):
    """K into scratch; zeros above the diagonal unless `full`, ones beyond the last key."""
    describe_keys(p, s, b, f)
    gated_at = inverse_blocks(p, f)  # free as yet
    for first_i in range(0, p.pitch, p.tile):
        for first_j in range(0, first_i + p.tile, p.tile):
            at = f + first_i * p.pitch + first_j
            write_grams(p, s, b, first_i, first_j, at, gated_at)
            write_correlation(p, s, b, f, first_i, first_j, at, gated_at, full)


@triton.jit(noinline=True)
def write_correlation(p, s, b, f, first_i, first_j, at, gated_at, full: tl.constexpr):
    """The kernels with their weights; padding is made independent, the diagonal exactly one."""
    local = tl.arange(0, p.tile)
    i = first_i + local
    j = first_j + local
    k = exponential_kernel(p, b, f, load_tile(at, p.pitch, local, local), i, j, 0)
    if p.gate is not None:
        gated = load_tile(gated_at, p.pitch, local, local)
        k += exponential_kernel(p, b, f, gated, i, j, 1)
    if p.counts is not None:
        k += weight(p, b, 0) * counting_kernel(p, s, b, f, i, j)
    related = exists(p, s, b, i)[:, None] & exists(p, s, b, j)[None, :]
    if not full:
        related = related & (i[:, None] > j[None, :])
    k = tl.where(related, k * (1.0 / (1.0 + p.jitter)), 0.0)
    k = tl.where(i[:, None] == j[None, :], 1.0, k)
    store_tile(at, p.pitch, local, local, k)
    if full and first_i > first_j:
        store_tile(f, p.pitch, j, i, tl.trans(k))
    tl.debug_barrier()


@triton.jit(noinline=True)
def load_ready(p, s, x, b, f, full: tl.constexpr):
    """A ready-made K or L into scratch, as `correlation` and `cholesky` leave theirs."""
    local = tl.arange(0, p.tile)
    for first_i in range(0, p.pitch, p.tile):
        i = first_i + local
        last = p.pitch if full else first_i + p.tile
        for first_j in range(0, last, p.tile):
            j = first_j + local
            there = (i < s.keys)[:, None] & (j < s.keys)[None, :]
            if not full:
                there = there & (i[:, None] >= j[None, :])
            at = x + (tl.cast(b, tl.int64) * s.keys + i[:, None]) * s.keys + j[None, :]
            k = tl.load(at, mask=there, other=0.0)
            beyond = (i[:, None] == j[None, :]) & (i >= s.keys)[:, None]
            store_tile(f, p.pitch, i, j, tl.where(beyond, 1.0, k))
    tl.debug_barrier()


@triton.jit
def cholesky(p, s, b, f):
    """L in place of K, and the inverses of its diagonal blocks; NaN if there is one in K.

    Column of blocks after column of blocks: what the finished columns contribute is subtracted by
    matrix products, the diagonal block is factored in registers, its inverse gives the rest.
    """
    good = 1.0
    for first in range(0, p.pitch, p.tile):
        good *= factor_block(p, f, first)
        for first_i in range(first + p.tile, p.pitch, p.tile):
            solve_block(p, f, first_i, first)
        for first_i in range(first + p.tile, p.pitch, p.tile):
            subtract_products(p, f, first_i, first)
    check_for_nan(p, f, good)


@triton.jit(noinline=True)
def subtract_products(p, f, first_i, first):
    """From a block of the next column, what the columns up to the one at `first` contribute."""
    local = tl.arange(0, p.tile)
    i = local + first_i
    j = local + first + p.tile
    acc = tl.zeros((p.tile, p.tile), tl.float32)
    for first_k in range(0, first + p.tile, p.tile):
        x = load_tile(f, p.pitch, i, first_k + local)
        y = load_tile(f, p.pitch, j, first_k + local)
        acc = multiply(x, tl.trans(y), acc, p.exact)
    store_tile(f, p.pitch, i, j, load_tile(f, p.pitch, i, j) - acc)
    tl.debug_barrier()


@triton.jit(noinline=True)
def solve_block(p, f, first_i, first):
    """A block of L below the diagonal one."""
    local = tl.arange(0, p.tile)
    i, j = first_i + local, first + local
    inverse = load_tile(inverse_blocks(p, f), p.tile, j, local)
    x = load_tile(f, p.pitch, i, j)
    x = multiply(x, inverse, tl.zeros((p.tile, p.tile), tl.float32), p.exact)
    tl.debug_barrier()
    store_tile(f, p.pitch, i, j, x * tl.load(columns_that_go_on(p, f) + j)[None, :])
    tl.debug_barrier()


@triton.jit
def columns_that_go_on(p, f):
    """1 or, where a column ends with its pivot, 0: (pitch,)."""
    return inverse_norms(p, f, 3)


@triton.jit(noinline=True)
def factor_block(p, f, first):
    """A diagonal block of L and the transpose of its inverse; returns 0 if there is NaN, else 1.

    K = U D U' column by column, in registers by rows: U D takes the place of K, and the same steps
    on the identity give the inverse of U'. A step needs one row of U D besides, by way of scratch.
    A pivot that rounding has left at 0 or below becomes the least possible one and its column ends
    there (see the reference).
    """
    least = p.jitter / (1.0 + p.jitter)
    local = tl.arange(0, p.tile)
    row = local[:, None]
    column = local[None, :]
    at = f + first * (p.pitch + 1) + row * p.pitch + column
    inverse_at = inverse_blocks(p, f) + (first + row) * p.tile + column
    tl.store(inverse_at, tl.where(row == column, 1.0, 0.0))
    tl.debug_barrier()
    k = tl.load(at)
    inverse = tl.load(inverse_at)  # with the threads that have k
    scales = tl.zeros((1, p.tile), tl.float32)  # 1 / sqrt(D) of the columns that are done
    factors = tl.zeros((1, p.tile), tl.float32)  # -1 / D of those of them that go on
    good = 1.0
    row_at = f + first * (p.pitch + 1) + column
    for step in range(p.tile):
        here = column == step
        x = tl.load(row_at)
        w = tl.where(here, 1.0, x * factors)
        pivot = tl.sum(tl.sum(x * w, axis=1), axis=0)
        left = tl.sum(k * w, axis=1)[:, None]
        inverse = tl.where(here, tl.sum(inverse * w, axis=1)[:, None], inverse)
        good = tl.where(pivot < float("inf"), good, 0.0)
        ends = pivot <= 0
        scale = tl.rsqrt(tl.where(ends, least, pivot))
        scales = tl.where(here, scale, scales)
        factors = tl.where(here, tl.where(ends, 0.0, -scale * scale), factors)
        left = tl.where(ends, tl.where(row == step, least, 0.0), left)
        k = tl.where(here, left, k)
        tl.store(at, k, mask=row == step + 1)
        row_at += p.pitch
        tl.debug_barrier()
    tl.store(at, tl.where(row >= column, k * scales, 0.0))
    tl.store(inverse_at, inverse * scales)
    goes_on = tl.where(factors == 0, 0.0, 1.0)
    tl.store(columns_that_go_on(p, f) + first + column, goes_on)
    tl.debug_barrier()
    return good


@triton.jit(noinline=True)
def check_for_nan(p, f, good):
    """L is all NaN if it is not good: as in the reference no row pretends to have been drawn.

    The condition is in here: what is called on a condition of a thread is compiled for the worst.
    """
    local = tl.arange(0, p.tile)
    if good == 0:
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + local
            for first_j in range(0, first_i + p.tile, p.tile):
                j = first_j + local
                nan = tl.where(i[:, None] >= j[None, :], float("nan"), 0.0)
                store_tile(f, p.pitch, i, j, nan)
    tl.debug_barrier()


@triton.jit(noinline=True)
def shape_prior(p, s, b, h, first_row, f, r):
    """alpha-hat of a tile of rows into scratch, and 1 / its largest entry in each row.

    The co-occurrence is symmetric, so the mean count of row t's own item is a sum over its row.
    """
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    seen = tl.zeros((p.rows_tile, p.tile), tl.float32)
    own = tl.zeros((p.rows_tile, p.tile), tl.float32)
    itself = tl.zeros((p.rows_tile, p.tile), tl.float32)
    limit = last_key(p, s, first_row)
    for first in range(0, limit, p.tile):
        k = first + tl.arange(0, p.tile)
        m, counts = seen_counts(p, s, b, h, i, k)
        seen += m
        own += counts
        itself += tl.where(position(s, i)[:, None] == k[None, :], m, 0.0)
    inverse = 1.0 / tl.maximum(tl.sum(seen, axis=1) - 1.0, 1.0)
    own = (tl.sum(own, axis=1) * inverse * tl.sum(itself, axis=1))[:, None]
    for first_j in range(0, limit, p.tile):
        j = first_j + tl.arange(0, p.tile)
        paths = tl.zeros((p.rows_tile, p.tile), tl.float32)
        mean = tl.zeros((p.rows_tile, p.tile), tl.float32)
        for first in range(0, limit, p.tile):
            k = first + tl.arange(0, p.tile)
            m, counts = seen_counts(p, s, b, h, i, k)
            others = (k[:, None] != j[None, :]) & (k < s.keys)[:, None] & (j < s.keys)[None, :]
            column = load_counts(p, s, b, k, j, others)
            paths = multiply(counts, column, paths, p.exact)
            mean = multiply(m, column, mean, p.exact)
        m, counts = seen_counts(p, s, b, h, i, j)
        prior = paths + counts * (mean * inverse[:, None] + own)
        prior += tl.where(position(s, i)[:, None] == j[None, :], own * own, 0.0)
        prior = prior * m
        store_tile(rows_at(p, r, PRIOR), p.pitch, local, j, prior)
    tl.debug_barrier()
    largest = tl.zeros((p.rows_tile, p.tile), tl.float32)
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        largest = tl.maximum(largest, load_tile(rows_at(p, r, PRIOR), p.pitch, local, j))
    largest = tl.max(largest, axis=1)
    store_value(p, r, PRIOR_SCALE, 1.0 / tl.where(largest > 0, largest, 1.0))
    tl.debug_barrier()


@triton.jit
def seen_counts(p, s, b, h, i, k):
    """M and M o C_0 at rows i and keys k."""
    m = allowed(p, s, b, h, i, k)
    item = position(s, i)
    return m.to(tl.float32), load_counts(p, s, b, item, k, m & (item[:, None] != k[None, :]))
