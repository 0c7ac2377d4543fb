"""Relative times: the bias of the location by buckets, and the gradient of their table."""

import triton
import triton.language as tl

from rka_fast.ops.arguments import TIME_BUCKETS, TIME_STEP
from rka_fast.ops.triton.scratch import D_LOGITS, rows_at
from rka_fast.ops.triton.tiles import last_key

BUCKETS = tl.constexpr(TIME_BUCKETS)
STEPS = tl.constexpr(1 / TIME_STEP)
PARTS = tl.constexpr(4)  # of a row of a tile: with 32 rows one for each thread
PITCH = tl.constexpr(144)  # of a part's sums in scratch, a multiple of the columns added at once
AT_ONCE = tl.constexpr(16)
SUMS = tl.constexpr(4 * 144)  # floats for each row of a tile


@triton.jit
def time_bucket(p, apart):
    """The bucket of a number of seconds: by the logarithm, which may be one off, then by edges."""
    seconds = tl.maximum(tl.abs(apart), 1)
    k = (tl.log(seconds.to(tl.float32)) * STEPS).to(tl.int32)
    k = tl.minimum(k, BUCKETS - 1)
    below = seconds < tl.load(p.times.edges + k)
    above = seconds >= tl.load(p.times.edges + k + 1)
    return k - below.to(tl.int32) + above.to(tl.int32)


@triton.jit
def row_time(p, s, b, i):
    at = p.times.rows + tl.cast(b, tl.int64) * s.rows + i
    return tl.load(at, mask=i < s.rows, other=0)


@triton.jit
def key_time(p, s, b, j):
    at = p.times.keys + tl.cast(b, tl.int64) * s.keys + j
    return tl.load(at, mask=j < s.keys, other=0)


@triton.jit
def time_bias(p, s, b, h, i, j):
    """What the table adds at rows i and keys j."""
    bucket = time_bucket(p, row_time(p, s, b, i)[:, None] - key_time(p, s, b, j)[None, :])
    return tl.load(p.times.table + h * p.times.head + bucket)


@triton.jit(noinline=True)
def table_backward(p, s, g, b, h, first_row, r):
    """The share of a tile of rows in the gradient of the table, from that of its logits.

    Every part of a row adds to sums of its own, one key after another, so that the order of the
    additions hangs on nothing; then the parts are added.
    """
    part = tl.arange(0, p.rows_tile * PARTS)
    row = part // PARTS
    column = part % PARTS * (p.tile // PARTS)
    time = row_time(p, s, b, first_row + row)
    sums = rows_at(p, r, D_LOGITS + 1)
    some = tl.arange(0, AT_ONCE)
    for first in range(0, PITCH, AT_ONCE):
        at = sums + part[:, None] * PITCH + (first + some)[None, :]
        tl.store(at, tl.zeros((p.rows_tile * PARTS, AT_ONCE), tl.float32))
    tl.debug_barrier()
    for first in range(0, last_key(p, s, first_row), p.tile):
        for step in range(0, p.tile // PARTS):
            j = first + column + step
            d = tl.load(rows_at(p, r, D_LOGITS) + row * p.pitch + j)
            at = sums + part * PITCH + time_bucket(p, time - key_time(p, s, b, j))
            tl.store(at, tl.load(at) + d)
            tl.debug_barrier()  # the sum may be another thread's next time
    to = g.time_table + (tl.cast(b, tl.int64) * s.heads + h) * BUCKETS
    for first in range(0, PITCH, AT_ONCE):
        at = sums + part[:, None] * PITCH + (first + some)[None, :]
        total = tl.sum(tl.load(at), axis=0)
        there = first + some < BUCKETS
        if first_row > 0:
            total += tl.load(to + first + some, mask=there, other=0.0)
            tl.debug_barrier()  # every thread has it before one replaces it
        tl.store(to + first + some, total, mask=there)
    tl.debug_barrier()
