"""The backward pass: every gradient has one owner, so nothing depends on who comes first.

Nothing is kept from the forward pass: a tile of rows is computed again, then gives its gradients
to the queries it owns and adds its share to the keys, values and to d L. `backward_kernel` does a
sequence in one launch. For long sequences the heads go to programs of their own: `factor_kernel`,
`heads_backward_kernel` and `adjoint_kernel`.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from rka_fast.ops.triton.attention import (
    LOWEST,
    biased,
    both_scores,
    draw,
    keep_factors,
    logits,
    prepare,
    prior_of_rows,
    softmax_step,
    weights,
)
from rka_fast.ops.triton.covariance import d_correlation
from rka_fast.ops.triton.covariance_backward import correlation_backward, store_ready
from rka_fast.ops.triton.scratch import (
    DEVIATES,
    INNER,
    LARGEST,
    LOCATION,
    SCALE,
    SLOPE,
    TIMES,
    TOTAL,
    WEIGHTS,
    load_value,
    rows_at,
    store_value,
)
from rka_fast.ops.triton.skew_normal_backward import deviates_backward
from rka_fast.ops.triton.tiles import (
    SIZES,
    Heads,
    Size,
    activation_slope,
    allowed,
    inverse_root,
    last_key,
    load_heads,
    load_tile,
    location_scale,
    multiply,
    rounded,
    softplus,
    store_heads,
    store_tile,
    write_rows,
    write_scores,
)
from rka_fast.ops.triton.times import table_backward, time_bias


class Gradients(NamedTuple):
    """float32, contiguous; None where not needed. `output` comes in, the others go out."""

    output: Heads
    query: Heads | None
    key: Heads | None
    value: Heads | None
    bias: object  # (B, H, n, m)
    time_table: object  # (B, H, TIME_BUCKETS)
    scale_query: Heads | None
    scale_key: Heads | None
    scale_bias: object  # (B, H)
    shape_query: Heads | None
    shape_key: Heads | None
    features: object
    concentration: object  # (B, 2)
    mixture: object  # (B, 3)
    gate: object
    correlation: object  # (B, m, m), where it came ready-made
    factor: object
    covariance: object  # constexpr: whether any of the last six (all or none are written)


@triton.jit(noinline=True)
def set_zero(p, s, f, x, b, h):
    """Keys are added to row tile by row tile."""
    for first in range(0, s.keys, p.tile):
        j = first + tl.arange(0, p.tile)
        for first_c in range(0, x.width, p.chunk):
            c = first_c + tl.arange(0, p.chunk)
            store_heads(x, b, h, j, c, j < s.keys, tl.zeros((p.tile, p.chunk), tl.float32))


@triton.jit
def set_zero_keys(p, s, g, f, b, h):
    if g.key is not None:
        set_zero(p, s, f, g.key, b, h)
    if g.value is not None:
        set_zero(p, s, f, g.value, b, h)
    if g.scale_key is not None:
        set_zero(p, s, f, g.scale_key, b, h)
    if g.shape_key is not None:
        set_zero(p, s, f, g.shape_key, b, h)


@triton.jit(noinline=True)
def add_to_keys(p, s, target, b, h, first_row, at, rows):
    """target_j += d' rows_i, d a tile of rows in scratch. What is not there stays out."""
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        for first_c in range(0, target.width, p.chunk):
            c = first_c + tl.arange(0, p.chunk)
            d = rounded(load_tile(at, p.pitch, local, j), p.precision)
            x = load_heads(rows, b, h, i, c, i < s.rows)
            acc = load_heads(target, b, h, j, c, j < s.keys)
            acc = multiply(tl.trans(d), x, acc, p.precision)
            store_heads(target, b, h, j, c, j < s.keys, acc)


@triton.jit(noinline=True)
def recompute(p, s, g, b, h, first_row, f, r):
    """The largest logit, the sum of exponentials and sum_j W d W of each row.

    The scale's bias is added in its place, dropout taken into d W; what relative times add is kept.
    """
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    largest = tl.full((p.rows_tile,), LOWEST, tl.float32)
    total = tl.zeros((p.rows_tile,), tl.float32)
    inner = tl.zeros((p.rows_tile,), tl.float32)
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        where = allowed(p, s, b, h, i, j)
        location = load_tile(rows_at(p, r, LOCATION), p.pitch, local, j)
        scale = location
        x = location
        if p.mode != "location":
            scale = biased(p, h, load_tile(rows_at(p, r, SCALE), p.pitch, local, j))
            store_tile(rows_at(p, r, SCALE), p.pitch, local, j, scale)
            x = load_tile(rows_at(p, r, DEVIATES), p.pitch, local, j)
        d = load_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j)
        if p.dropout is not None:
            d *= keep_factors(p, s, b, h, i, first)
            store_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j, d)
        time = location
        if p.times is not None:
            time = time_bias(p, s, b, h, i, j)
            store_tile(rows_at(p, r, TIMES), p.pitch, local, j, time)
        z = logits(p, s, b, h, i, j, where, location, scale, x, time)
        previous = largest
        largest, total = softmax_step(z, where, largest, total)
        inner *= tl.exp(previous - largest)
        inner += tl.sum(tl.where(where, tl.exp(z - largest[:, None]) * d, 0.0), axis=1)
    store_value(p, r, LARGEST, largest)
    store_value(p, r, TOTAL, total)
    store_value(p, r, INNER, inner / tl.where(total == 0, 1.0, total))
    tl.debug_barrier()


@triton.jit(noinline=True)
def softmax_backward(p, s, g, b, h, first_row, f, r):
    """From d W: the gradients of both scores and of S in place of the values they had, W in that
    of d W.

    Returns the share of d scale_bias.
    """
    local = tl.arange(0, p.rows_tile)
    i = first_row + local
    largest = load_value(p, r, LARGEST)
    total = load_value(p, r, TOTAL)
    inner = load_value(p, r, INNER)
    share = tl.zeros((p.rows_tile,), tl.float32)
    for first in range(0, last_key(p, s, first_row), p.tile):
        j = first + tl.arange(0, p.tile)
        where = allowed(p, s, b, h, i, j)
        location = load_tile(rows_at(p, r, LOCATION), p.pitch, local, j)
        scale = location
        x = location
        if p.mode != "location":
            scale = load_tile(rows_at(p, r, SCALE), p.pitch, local, j)
            x = load_tile(rows_at(p, r, DEVIATES), p.pitch, local, j)
        time = location
        if p.times is not None:
            time = load_tile(rows_at(p, r, TIMES), p.pitch, local, j)
        z = logits(p, s, b, h, i, j, where, location, scale, x, time)
        w = weights(z, largest, total)
        d = load_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j)
        dz = tl.where(where, w * (d - inner[:, None]), 0.0)
        if g.value is not None:
            if p.dropout is not None:
                w *= keep_factors(p, s, b, h, i, first)
            store_tile(rows_at(p, r, WEIGHTS), p.pitch, local, j, w)
        if g.bias is not None:
            head = tl.cast(b, tl.int64) * s.heads + h
            at = g.bias + (head * s.rows + i[:, None]) * s.keys + j[None, :]
            tl.store(at, dz, mask=where)
        if g.time_table is not None:
            store_tile(rows_at(p, r, TIMES), p.pitch, local, j, dz)
        d = dz * activation_slope(p.activation, location) * location_scale(p)
        store_tile(rows_at(p, r, LOCATION), p.pitch, local, j, d)
        if p.mode != "location":
            omega, sigmoid = softplus(scale)
            store_tile(rows_at(p, r, DEVIATES), p.pitch, local, j, dz * omega)
            d = tl.where(where, dz * x * sigmoid, 0.0)
            share += tl.sum(d, axis=1)
            d *= inverse_root(p.scale_query.width)
            store_tile(rows_at(p, r, SCALE), p.pitch, local, j, d)
    tl.debug_barrier()
    return tl.sum(share, axis=0)


@triton.jit
def scores_backward(p, s, query, key, d_query, d_key, b, h, first_row, at):
    """From the gradient of scores in scratch to queries and keys."""
    if d_key is not None:
        add_to_keys(p, s, d_key, b, h, first_row, at, query)
    if d_query is not None:
        write_rows(p, s, d_query, b, h, first_row, at, key)


@triton.jit
def rows_backward(p, s, g, b, h, first_row, f, r, d_factor):
    """All that a tile of rows of one head contributes; returns its share of d scale_bias."""
    draw(p, s, b, h, first_row, f, r, DEVIATES, True)
    both_scores(p, s, b, h, first_row, r, LOCATION, SCALE)
    one = tl.full((), 1.0, tl.float32)  # no constant, which would make a function of its own
    write_scores(p, s, g.output, p.value, b, h, first_row, one, rows_at(p, r, WEIGHTS))
    recompute(p, s, g, b, h, first_row, f, r)
    share = softmax_backward(p, s, g, b, h, first_row, f, r)
    if g.time_table is not None:
        table_backward(p, s, g, b, h, first_row, r)
    if g.value is not None:
        add_to_keys(p, s, g.value, b, h, first_row, rows_at(p, r, WEIGHTS), g.output)
    at = rows_at(p, r, LOCATION)
    scores_backward(p, s, p.query, p.key, g.query, g.key, b, h, first_row, at)
    if p.mode != "location":
        at = rows_at(p, r, SCALE)
        scores_backward(
            p, s, p.scale_query, p.scale_key, g.scale_query, g.scale_key, b, h, first_row, at
        )
        tl.debug_barrier()  # the weights are not needed any more
        if p.shape_query is not None:
            deviates_backward(p, s, g, b, h, first_row, f, r, d_factor)
            at = rows_at(p, r, SLOPE)
            scores_backward(
                p, s, p.shape_query, p.shape_key, g.shape_query, g.shape_key, b, h, first_row, at
            )
        elif p.mode == "sample":
            deviates_backward(p, s, g, b, h, first_row, f, r, d_factor)
    tl.debug_barrier()  # the next tile of rows writes where this one still reads
    return share


@triton.jit
def set_zero_square(p, f, x):
    local = tl.arange(0, p.tile)
    for first in range(0, p.pitch, p.tile):
        for first_j in range(0, p.pitch, p.tile):
            i = first + local
            j = first_j + local
            store_tile(x, p.pitch, i, j, tl.zeros((p.tile, p.tile), tl.float32))


@triton.jit(noinline=True)
def heads_backward(p, s, g, b, first_head, last_head, f, r, d_factor):
    """All that these heads of a sequence contribute."""
    for h in range(first_head, last_head):
        set_zero_keys(p, s, g, f, b, h)
    if g.covariance:
        set_zero_square(p, f, d_factor)
    tl.debug_barrier()
    for first_row in range(0, s.rows, p.rows_tile):
        if not p.mask_per_head:
            prior_of_rows(p, s, b, first_head, first_row, f, r)
        for h in range(first_head, last_head):
            if p.mask_per_head:
                prior_of_rows(p, s, b, h, first_row, f, r)
            share = rows_backward(p, s, g, b, h, first_row, f, r, d_factor)
            if g.scale_bias is not None:
                at = g.scale_bias + tl.cast(b, tl.int64) * s.heads + h
                if first_row > 0:
                    share += tl.load(at)
                    tl.debug_barrier()  # every thread has it before one replaces it
                tl.store(at, share)


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(p, batch, heads, rows, keys, row_offset, g, scratch, factor_size, rows_size):
    s = Size(batch, heads, rows, keys, row_offset)
    f = scratch + tl.cast(tl.program_id(0), tl.int64) * (factor_size + rows_size)
    r = f + factor_size
    for b in range(tl.program_id(0), s.batch, tl.num_programs(0)):
        prepare(p, s, b, f)
        heads_backward(p, s, g, b, 0, s.heads, f, r, d_correlation(p, f))
        if g.covariance:
            covariance_backward(p, s, g, b, f, r)
        tl.debug_barrier()


@triton.jit
def covariance_backward(p, s, g, b, f, r):
    """From d L (or d K) of a sequence to what K was made of, or to itself where it was ready."""
    if p.correlation is not None:
        store_ready(p, s, g, b, f)
    else:
        correlation_backward(p, s, g, b, f, r)


@triton.jit(do_not_specialize=SIZES)
def heads_backward_kernel(
    p, batch, heads, rows, keys, row_offset, g, factors, d_factors, scratch, factor_size, rows_size
):
    """Every program takes heads of sequences in turn; d L goes to (B, H, pitch, pitch)."""
    s = Size(batch, heads, rows, keys, row_offset)
    r = scratch + tl.cast(tl.program_id(0), tl.int64) * rows_size
    for index in range(tl.program_id(0), s.batch * s.heads, tl.num_programs(0)):
        b = index // s.heads
        h = index % s.heads
        f = factors + tl.cast(b, tl.int64) * factor_size
        d_factor = d_factors + tl.cast(index, tl.int64) * p.pitch * p.pitch
        heads_backward(p, s, g, b, h, h + 1, f, r, d_factor)
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def adjoint_kernel(
    p, batch, heads, rows, keys, row_offset, g, factors, d_factors, scratch, factor_size, rows_size
):
    """The heads' d L summed in their order, then back through K, sequence by sequence."""
    s = Size(batch, heads, rows, keys, row_offset)
    r = scratch + tl.cast(tl.program_id(0), tl.int64) * rows_size
    for b in range(tl.program_id(0), s.batch, tl.num_programs(0)):
        f = factors + tl.cast(b, tl.int64) * factor_size
        sum_heads(p, s, b, f, d_factors)
        covariance_backward(p, s, g, b, f, r)
        tl.debug_barrier()


@triton.jit(noinline=True)
def sum_heads(p, s, b, f, d_factors):
    local = tl.arange(0, p.tile)
    for first in range(0, p.pitch, p.tile):
        for first_j in range(0, p.pitch, p.tile):
            i = first + local
            j = first_j + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for h in range(0, s.heads):
                index = tl.cast(b, tl.int64) * s.heads + h
                acc += load_tile(d_factors + index * p.pitch * p.pitch, p.pitch, i, j)
            store_tile(d_correlation(p, f), p.pitch, i, j, acc)
    tl.debug_barrier()
