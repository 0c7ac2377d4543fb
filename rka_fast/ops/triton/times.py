"""Relative times: the bias of the location by buckets, and the gradient of their table."""

import math

import triton
import triton.language as tl

from rka_fast.ops.arguments import TIME_BUCKETS, TIME_STEP
from rka_fast.ops.triton.scratch import TIMES, rows_at
from rka_fast.ops.triton.tiles import last_key

BUCKETS = tl.constexpr(TIME_BUCKETS)
ONE = tl.constexpr(0x3F800000)  # the bits of 1 in float32; 2^23 more are those of twice as much
STEPS = tl.constexpr(math.log(2) / TIME_STEP / 2**23)
SHORT = tl.constexpr(0.01)  # far above the rounding of the product
PARTS = tl.constexpr(4)  # of a row of a tile: with 32 rows one for each thread
PITCH = tl.constexpr(144)  # of a part's sums in scratch, a multiple of the columns added at once
AT_ONCE = tl.constexpr(16)
SUMS = tl.constexpr(4 * 144)  # floats for each row of a tile


@triton.jit
def time_bucket(p, a, b):
    """The bucket of two times: at first at most one short, as the bits of a float are a logarithm
    to base 2 that is up to 0.09 short, then by the end of that bucket.

    The difference is beyond int64 where they are near its ends, but not beyond uint64.
    """
    seconds = (tl.maximum(a, b) - tl.minimum(a, b)).to(tl.uint64, bitcast=True)
    bits = tl.maximum(seconds.to(tl.float32), 1.0).to(tl.int32, bitcast=True)
    k = tl.minimum(((bits - ONE).to(tl.float32) * STEPS - SHORT).to(tl.int32), BUCKETS - 1)
    beyond = seconds > tl.load(p.times.ends + k).to(tl.uint64, bitcast=True)
    return k + beyond.to(tl.int32)


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
    bucket = time_bucket(p, row_time(p, s, b, i)[:, None], key_time(p, s, b, j)[None, :])
    return tl.load(p.times.table + h * p.times.head + bucket)


@triton.jit(noinline=True)
def table_backward(p, s, g, b, h, first_row, r):
    """The share of a tile of rows in the gradient of the table, from that of its logits.

    Every part of a row adds to sums of its own, one key after another, so that the order of the
    additions hangs on nothing; then the parts are added.
    """
    part = tl.arange(0, p.rows_tile * PARTS)
    row = part // PARTS
    time = row_time(p, s, b, first_row + row)
    sums = rows_at(p, r, TIMES + 1)
    some = tl.arange(0, AT_ONCE)
    for first in range(0, PITCH, AT_ONCE):
        at = sums + part[:, None] * PITCH + (first + some)[None, :]
        tl.store(at, tl.zeros((p.rows_tile * PARTS, AT_ONCE), tl.float32))
    tl.debug_barrier()
    for first in range(0, last_key(p, s, first_row), PARTS):
        j = first + part % PARTS
        d = tl.load(rows_at(p, r, TIMES) + row * p.pitch + j)
        at = sums + part * PITCH + time_bucket(p, time, key_time(p, s, b, j))
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
