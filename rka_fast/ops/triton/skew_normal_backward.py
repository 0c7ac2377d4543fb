"""From d S of a tile of rows to d alpha, d L (or d K for the mean): the adjoint of skew_normal.py.

With S = C L', C = E + c B, B = A L, h = (B.E + T) / sqrt(1 + q), q = |B|^2, u = 1 / (1 + q) and
c = -2 u min(B.E + T, 0): d C = d S L, d c = d C.B, and d B = c d C + x E + 2 y B with
x = -2 u d c [h < 0] and y = d q = -u c d c. The mean has S = c P, c = sqrt(2 u / pi), q = A.P,
d c = d S.P, y = -u c d c / 2 and d P = c d S + y A.
"""

import triton
import triton.language as tl

from rka_fast.ops.triton.scratch import (
    ALPHA,
    DEVIATES,
    NOISE,
    PRODUCT,
    PROJECTION,
    SLOPE,
    WEIGHTS,
    Q,
    load_value,
    rows_at,
)
from rka_fast.ops.triton.skew_normal import product_weight
from rka_fast.ops.triton.tiles import (
    inverse_root,
    last_key,
    load_tile,
    multiply,
    store_tile,
    sum_products,
)


@triton.jit
def deviates_backward(p, s, g, b, h, first_row, f, r, d_factor):
    """Adds to `d_factor`; leaves the gradient of the shape's scores in place of SLOPE."""
    limit = last_key(p, s, first_row)
    if p.mode == "mean":
        mean_backward(p, f, r, limit)
    elif p.shape_query is not None:
        draw_backward(p, f, r, limit)
    if g.covariance:
        add_to_factor(p, f, r, d_factor, limit)
    if p.shape_query is not None:
        shape_backward(p, f, r, limit)


@triton.jit(noinline=True)
def mean_backward(p, f, r, limit):
    """WEIGHTS = d P, PRODUCT = y P (what q contributes to d A)."""
    local = tl.arange(0, p.rows_tile)
    d_c = tl.zeros((p.rows_tile,), tl.float32)
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        d = load_tile(rows_at(p, r, DEVIATES), p.pitch, local, j)
        d_c += sum_products(d, load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j), 1)
    tl.debug_barrier()
    c = product_weight(p, r)
    y = -0.5 * c * d_c / (1.0 + load_value(p, r, Q))
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        d = c[:, None] * load_tile(rows_at(p, r, DEVIATES), p.pitch, local, j)
        d += y[:, None] * load_tile(rows_at(p, r, ALPHA), p.pitch, local, j)
        store_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j, d)
        product = load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j)
        store_tile(rows_at(p, r, PRODUCT), p.pitch, local, j, y[:, None] * product)
    tl.debug_barrier()


@triton.jit(noinline=True)
def draw_backward(p, f, r, limit):
    """WEIGHTS = d B, PRODUCT = C."""
    local = tl.arange(0, p.rows_tile)
    d_c = tl.zeros((p.rows_tile,), tl.float32)
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        acc = tl.zeros((p.rows_tile, p.tile), tl.float32)
        for first_k in range(first, limit, p.tile):
            k = first_k + tl.arange(0, p.tile)
            d = load_tile(rows_at(p, r, DEVIATES), p.pitch, local, k)
            acc = multiply(d, load_tile(f, p.pitch, k, j), acc, p.exact)
        store_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j, acc)
        d_c += sum_products(acc, load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j), 1)
    tl.debug_barrier()
    c = product_weight(p, r)
    u = 1.0 / (1.0 + load_value(p, r, Q))
    x = tl.where(load_value(p, r, PROJECTION) < 0, -2.0 * u * d_c, 0.0)
    y = -u * c * d_c
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        d = load_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j)
        product = load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j)
        e = load_tile(rows_at(p, r, NOISE), p.pitch, local, j)
        d = c[:, None] * d + x[:, None] * e + 2.0 * y[:, None] * product
        store_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j, d)
        store_tile(rows_at(p, r, PRODUCT), p.pitch, local, j, e + c[:, None] * product)
    tl.debug_barrier()


@triton.jit(noinline=True)
def add_to_factor(p, f, r, d_factor, limit):
    """d L += d S' C + A' d B on and below the diagonal, or d K += A' d P for the mean."""
    local = tl.arange(0, p.rows_tile)
    for first_i in range(0, limit, p.tile):
        i = first_i + tl.arange(0, p.tile)
        last = limit if p.mode == "mean" else first_i + p.tile
        for first_j in range(0, last, p.tile):
            j = first_j + tl.arange(0, p.tile)
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            if p.mode == "sample":
                d = tl.trans(load_tile(rows_at(p, r, DEVIATES), p.pitch, local, i))
                if p.shape_query is not None:
                    x = load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j)
                else:
                    x = load_tile(rows_at(p, r, NOISE), p.pitch, local, j)
                acc = multiply(d, x, acc, p.exact)
            if p.shape_query is not None:
                a = tl.trans(load_tile(rows_at(p, r, ALPHA), p.pitch, local, i))
                d = load_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j)
                acc = multiply(a, d, acc, p.exact)
            store_tile(d_factor, p.pitch, i, j, acc + load_tile(d_factor, p.pitch, i, j))


@triton.jit(noinline=True)
def shape_backward(p, f, r, limit):
    """d A = d B L' (or y P + d P K), times the slope: the gradient of the shape's scores."""
    local = tl.arange(0, p.rows_tile)
    for first in range(0, limit, p.tile):
        j = first + tl.arange(0, p.tile)
        acc = tl.zeros((p.rows_tile, p.tile), tl.float32)
        last = limit
        if p.mode == "mean":
            acc = load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j)
        else:
            last = first + p.tile
        for first_k in range(0, last, p.tile):
            k = first_k + tl.arange(0, p.tile)
            d = load_tile(rows_at(p, r, WEIGHTS), p.pitch, local, k)
            acc = multiply(d, tl.trans(load_tile(f, p.pitch, j, k)), acc, p.exact)
        acc *= load_tile(rows_at(p, r, SLOPE), p.pitch, local, j)
        acc *= inverse_root(p.shape_query.width)
        store_tile(rows_at(p, r, SLOPE), p.pitch, local, j, acc)
    tl.debug_barrier()
