"""Rows of skew-normal logits: alpha, the draw S or its mean; mirrors reference/skew_normal.py.

A tile of rows of one head keeps what it needs of every key in its own rows of scratch. With
B = A L the draw is S = C L' with C = E + c B, q = |B|^2 and A.X = B.E, so that one product with
each triangle of L is enough and K itself is not needed. The mean is S = c P with P = A K.
"""

import triton
import triton.language as tl

from rka_fast.ops.triton import philox
from rka_fast.ops.triton.scratch import (
    ALPHA,
    NOISE,
    PRIOR,
    PRIOR_SCALE,
    PRODUCT,
    PROJECTION,
    SLOPE,
    Q,
    load_value,
    rows_at,
    store_value,
)
from rka_fast.ops.triton.tiles import (
    activate,
    activation_slope,
    allowed,
    last_key,
    load_pairs,
    load_tile,
    multiply,
    position,
    store_tile,
    sum_products,
)

HALF_NORMAL_MEAN = tl.constexpr(0.7978845608028654)  # sqrt(2 / pi)


@triton.jit(noinline=True)
def write_alpha(p, s, b, h, first_row, f, r, save: tl.constexpr):
    """A of a tile of rows in place of its scores; with `save` d alpha / d score too."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        score = load_tile(rows_at(p, r, ALPHA), p.pitch, local, j)
        if p.counts is not None:
            prior = load_tile(rows_at(p, r, PRIOR), p.pitch, local, j)
            prior *= load_value(p, r, PRIOR_SCALE)[:, None]
        elif p.prior is not None:
            prior = load_pairs(p.prior, b, h, i, j, allowed(p, s, b, h, i, j))
        else:
            prior = allowed(p, s, b, h, i, j).to(tl.float32)
        store_tile(rows_at(p, r, ALPHA), p.pitch, local, j, activate(p.activation, score) * prior)
        if save:
            slope = activation_slope(p.activation, score)
            store_tile(rows_at(p, r, SLOPE), p.pitch, local, j, slope * prior)
    tl.debug_barrier()


@triton.jit(noinline=True)
def projections(p, s, b, h, first_row, f, r):
    """E, B = A L (or P = A K for the mean) into scratch, q and A.X + T of each row."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    limit = last_key(p, s, first_row)
    q = tl.zeros((p.rows_tile,), tl.float32)
    projection = tl.zeros((p.rows_tile,), tl.float32)
    head = b * s.heads + h
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        if p.shape_query is not None:
            acc = tl.zeros((p.rows_tile, p.tile), tl.float32)
            start = first if p.mode == "sample" else 0
            for first_k in range(start, limit, p.tile):
                k = first_k + tl.arange(0, p.tile)
                a = load_tile(rows_at(p, r, ALPHA), p.pitch, local, k)
                acc = multiply(a, load_tile(f, p.pitch, k, j), acc, p.exact)
            store_tile(rows_at(p, r, PRODUCT), p.pitch, local, j, acc)
            if p.mode == "mean":
                a = load_tile(rows_at(p, r, ALPHA), p.pitch, local, j)
                q += sum_products(a, acc, 1)
            else:
                q += sum_products(acc, acc, 1)
        if p.mode == "sample":
            e = philox.normals(tl.load(p.seed), first, position(s, i), head, p.tile)
            store_tile(rows_at(p, r, NOISE), p.pitch, local, j, e)
            if p.shape_query is not None:
                projection += sum_products(acc, e, 1)
    if p.mode == "sample":
        projection += philox.skew_noise(tl.load(p.seed), position(s, i), head)
    store_value(p, r, Q, q)
    store_value(p, r, PROJECTION, projection)
    tl.debug_barrier()


@triton.jit
def product_weight(p, r):
    """c of S = X + c P, where c = -2 min(h, 0) / sqrt(1 + q), or of the mean S = c P."""
    c = tl.zeros((p.rows_tile,), tl.float32)
    if p.mode == "mean":
        c = HALF_NORMAL_MEAN / tl.sqrt_rn(1.0 + load_value(p, r, Q))
    elif p.mode == "sample":
        c = -2.0 * tl.minimum(load_value(p, r, PROJECTION), 0.0) / (1.0 + load_value(p, r, Q))
    return c


@triton.jit(noinline=True)
def write_deviates(p, s, first_row, f, r, which: tl.constexpr):
    """S of a tile of rows into scratch, in the rows `which`."""
    local = tl.arange(0, p.rows_tile)
    c = product_weight(p, r)
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        acc = tl.zeros((p.rows_tile, p.tile), tl.float32)
        if p.mode == "mean":
            if p.shape_query is not None:
                acc = c[:, None] * load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j)
        else:
            for first_k in range(0, first + p.tile, p.tile):
                k = first_k + tl.arange(0, p.tile)
                x = load_tile(rows_at(p, r, NOISE), p.pitch, local, k)
                if p.shape_query is not None:
                    x += c[:, None] * load_tile(rows_at(p, r, PRODUCT), p.pitch, local, k)
                acc = multiply(x, tl.trans(load_tile(f, p.pitch, j, k)), acc, p.exact)
        store_tile(rows_at(p, r, which), p.pitch, local, j, acc)
    tl.debug_barrier()
