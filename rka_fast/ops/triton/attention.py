"""The forward pass: logits, masked softmax, dropout and the product with V, row tile by row tile.

`forward_kernel` is the whole operator in one launch; each program takes sequences in turn and
factors K once for all its heads. For long sequences `factor_kernel` and `rows_kernel` share the
same functions between two launches, so that the row tiles spread over the device.

Functions that are not inlined keep the values of one phase out of the registers of the others.
"""

import triton
import triton.language as tl

from rka_fast.ops.triton import philox
from rka_fast.ops.triton.covariance import cholesky, correlation, load_ready, shape_prior
from rka_fast.ops.triton.scratch import (
    ALPHA,
    LARGEST,
    LOGITS,
    NOISE,
    PRODUCT,
    TOTAL,
    load_value,
    rows_at,
    store_value,
)
from rka_fast.ops.triton.skew_normal import projections, write_alpha, write_deviates
from rka_fast.ops.triton.tiles import (
    SIZES,
    Size,
    activate,
    allowed,
    inverse_root,
    last_key,
    load_pairs,
    load_tile,
    location_scale,
    position,
    softplus,
    store_tile,
    write_rows,
    write_scores,
)
from rka_fast.ops.triton.times import time_bias

LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def prepare(p, s, b, f):
    """K of a sequence and, for a draw, its factor."""
    if p.mode == "mean" and p.shape_query is not None:
        if p.correlation is not None:
            load_ready(p, s, p.correlation, b, f, True)
        else:
            correlation(p, s, b, f, True)
    elif p.mode == "sample":
        if p.factor is not None:
            load_ready(p, s, p.factor, b, f, False)
        else:
            correlation(p, s, b, f, False)
            cholesky(p, s, b, f)


@triton.jit
def prior_of_rows(p, s, b, h, first_row, f, r):
    if p.counts is not None and p.shape_query is not None and p.mode != "location":
        shape_prior(p, s, b, h, first_row, f, r)


@triton.jit
def draw(p, s, b, h, first_row, f, r, which: tl.constexpr, save: tl.constexpr):
    """A, B, E and, in the rows `which`, S of a tile of rows into scratch, with q and A.X + T."""
    if p.mode != "location":
        if p.shape_query is not None:
            root = inverse_root(p.shape_query.width)
            to = rows_at(p, r, ALPHA)
            write_scores(p, s, p.shape_query, p.shape_key, b, h, first_row, root, to)
            write_alpha(p, s, b, h, first_row, f, r, save)
        projections(p, s, b, h, first_row, f, r)
        write_deviates(p, s, first_row, f, r, which)


@triton.jit
def logits(p, s, b, h, i, j, where, location, scale, deviates, time):
    """Z from the scores and what relative times add, -inf where nothing may be seen."""
    z = activate(p.activation, location)
    if p.bias is not None:
        z += load_pairs(p.bias, b, h, i, j, where)
    if p.times is not None:
        z += time
    if p.mode != "location":
        omega, _ = softplus(scale)
        z += omega * deviates
    return tl.where(where, z, float("-inf"))


@triton.jit
def both_scores(p, s, b, h, first_row, r, location: tl.constexpr, scale: tl.constexpr):
    """The scores of location and scale, without its bias, into these rows of scratch."""
    to = rows_at(p, r, location)
    write_scores(p, s, p.query, p.key, b, h, first_row, location_scale(p), to)
    if p.mode != "location":
        root = inverse_root(p.scale_query.width)
        to = rows_at(p, r, scale)
        write_scores(p, s, p.scale_query, p.scale_key, b, h, first_row, root, to)


@triton.jit
def biased(p, h, scale):
    if p.scale_bias is not None:
        scale += tl.load(p.scale_bias + h)
    return scale


@triton.jit
def attend(p, s, output, b, h, first_row, f, r):
    """The output of a tile of rows."""
    draw(p, s, b, h, first_row, f, r, LOGITS, False)
    both_scores(p, s, b, h, first_row, r, NOISE, PRODUCT)
    write_logits(p, s, b, h, first_row, f, r)
    write_weights(p, s, b, h, first_row, r)
    write_rows(p, s, output, b, h, first_row, rows_at(p, r, LOGITS), p.value)
    tl.debug_barrier()  # the next tile of rows writes where this one still reads


@triton.jit(noinline=True)
def write_logits(p, s, b, h, first_row, f, r):
    """Z of a tile of rows into scratch, with its largest entry and the sum of exponentials."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    largest = tl.full((p.rows_tile,), LOWEST, tl.float32)
    total = tl.zeros((p.rows_tile,), tl.float32)
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        where = allowed(p, s, b, h, i, j)
        location = load_tile(rows_at(p, r, NOISE), p.pitch, local, j)
        scale = location
        x = location
        if p.mode != "location":
            scale = biased(p, h, load_tile(rows_at(p, r, PRODUCT), p.pitch, local, j))
            x = load_tile(rows_at(p, r, LOGITS), p.pitch, local, j)
        time = location
        if p.times is not None:
            time = time_bias(p, s, b, h, i, j)
        z = logits(p, s, b, h, i, j, where, location, scale, x, time)
        store_tile(rows_at(p, r, LOGITS), p.pitch, local, j, z)
        largest, total = softmax_step(z, where, largest, total)
    store_value(p, r, LARGEST, largest)
    store_value(p, r, TOTAL, total)
    tl.debug_barrier()


@triton.jit(noinline=True)
def write_weights(p, s, b, h, first_row, r):
    """The weights, after dropout, in place of the logits."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    largest = load_value(p, r, LARGEST)
    total = load_value(p, r, TOTAL)
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        w = weights(load_tile(rows_at(p, r, LOGITS), p.pitch, local, j), largest, total)
        if p.dropout is not None:
            w *= keep_factors(p, s, b, h, i, first)
        store_tile(rows_at(p, r, LOGITS), p.pitch, local, j, w)
    tl.debug_barrier()


@triton.jit
def softmax_step(z, where, largest, total):
    """Largest logit and sum of exponentials, one more tile of keys taken in."""
    larger = tl.maximum(largest, tl.max(z, axis=1))
    e = tl.where(where, tl.exp(z - larger[:, None]), 0.0)
    return larger, total * tl.exp(largest - larger) + tl.sum(e, axis=1)


@triton.jit
def weights(z, largest, total):
    """Zero where the logit is -inf, also in a row that sees nothing."""
    w = tl.exp(z - largest[:, None]) * (1.0 / total)[:, None]
    return tl.where(z == float("-inf"), 0.0, w)


@triton.jit
def keep_factors(p, s, b, h, i, first):
    head = b * s.heads + h
    return philox.keep_factors(tl.load(p.seed), first, position(s, i), head, p.dropout, p.tile)


@triton.jit(noinline=True)
def attend_rows(p, s, output, b, f, r):
    """The output of a sequence."""
    for first_row in range(0, s.rows, p.rows_tile):
        if not p.mask_per_head:
            prior_of_rows(p, s, b, 0, first_row, f, r)
        for h in range(0, s.heads):
            if p.mask_per_head:
                prior_of_rows(p, s, b, h, first_row, f, r)
            attend(p, s, output, b, h, first_row, f, r)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    p, batch, heads, rows, keys, row_offset, output, scratch, factor_size, rows_size
):
    s = Size(batch, heads, rows, keys, row_offset)
    f = scratch + tl.cast(tl.program_id(0), tl.int64) * (factor_size + rows_size)
    r = f + factor_size
    for b in range(tl.program_id(0), s.batch, tl.num_programs(0)):
        prepare(p, s, b, f)
        attend_rows(p, s, output, b, f, r)


@triton.jit(do_not_specialize=SIZES)
def factor_kernel(p, batch, heads, rows, keys, row_offset, factors, factor_size):
    s = Size(batch, heads, rows, keys, row_offset)
    b = tl.program_id(0)
    prepare(p, s, b, factors + tl.cast(b, tl.int64) * factor_size)


@triton.jit(do_not_specialize=SIZES)
def rows_kernel(
    p, batch, heads, rows, keys, row_offset, output, factors, scratch, factor_size, rows_size
):
    """Every program takes tiles of rows of one head in turn; the factors are there."""
    s = Size(batch, heads, rows, keys, row_offset)
    r = scratch + tl.cast(tl.program_id(0), tl.int64) * rows_size
    tiles = tl.cdiv(s.rows, p.rows_tile)
    for index in range(tl.program_id(0), s.batch * s.heads * tiles, tl.num_programs(0)):
        first_row = index % tiles * p.rows_tile
        h = index // tiles % s.heads
        b = index // tiles // s.heads
        f = factors + tl.cast(b, tl.int64) * factor_size
        prior_of_rows(p, s, b, h, first_row, f, r)
        attend(p, s, output, b, h, first_row, f, r)
